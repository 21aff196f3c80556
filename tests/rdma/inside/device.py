"""The guest's RDMA device, rxe0, as `soft-roce.sh` makes it."""

from __future__ import annotations

from pathlib import Path

SOFT_ROCE = Path(__file__).with_name("soft-roce.sh")
DEVICE = "rxe0"
PORT = Path(f"/sys/class/infiniband/{DEVICE}/ports/1")


def packets_received() -> int:
    return int((PORT / "hw_counters/rcvd_pkts").read_text())
