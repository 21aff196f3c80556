"""Whether the RDMA ports that an engine was started on have been up ever since.

Mooncake's engines do not get over a port that was down, be it for a second: every later read fails, also one by a new
engine of the other end, although the port is ACTIVE again and the process that serves the pool looks healthy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

ACTIVE: Final = "ACTIVE"


class RdmaPorts:
    """The ports of `devices` that are ACTIVE now, below `root` (a file system's root). Reads block for a moment."""

    def __init__(self, devices: Sequence[str], root: Path = Path("/")) -> None:
        self._seen = {
            port: _times_down(port) for name in devices for port in ports_of(root, name) if state_of(port) == ACTIVE
        }

    def fault(self) -> str | None:
        """What has happened to one of them since, or None."""
        for port, before in self._seen.items():
            state, name = state_of(port), f"port {port.name} of {port.parents[1].name}"
            if state != ACTIVE:
                return f"{name} is {state or 'gone'}"
            if _times_down(port) != before:
                return f"{name} was down for a moment"
        return None


def ports_of(root: Path, device: str) -> list[Path]:
    """The folders of a device's ports."""
    return sorted((root / "sys/class/infiniband" / device / "ports").glob("*"))


def state_of(port: Path) -> str:
    """Such as ACTIVE or DOWN; empty if it is unknown."""
    return attribute(port / "state").partition(": ")[2]  # "4: ACTIVE"


def driver_of(root: Path, device: str) -> str:
    """The kernel's, such as mlx5_core; empty if it is unknown, as of a device that is made of software."""
    link = root / "sys/class/infiniband" / device / "device/driver"
    return link.resolve().name if link.exists() else ""


def _times_down(port: Path) -> tuple[str, ...]:
    """As the driver counts them; which of the folders it uses depends on it."""
    return tuple(attribute(port / folder / "link_downed") for folder in ("counters", "hw_counters"))


def attribute(path: Path) -> str:
    """Of a device, as the kernel shows it in a file; empty if it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
