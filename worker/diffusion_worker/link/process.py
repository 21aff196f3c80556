"""Which process this is, to a router that has to tell one that died from one that only was silent."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from diffusionpipeline.v1 import peer_pb2

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def this_process(pod_uid: str) -> peer_pb2.Process:
    """To be made once; without a pod, by what is the machine's own and another after each boot."""
    return peer_pb2.Process(pod_uid=pod_uid or _machine(), started_at=time.time())


def _machine() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
