"""Which process this is, to a router that has to tell one that died from one that only was silent."""

from __future__ import annotations

import socket
import time

from diffusionpipeline.process.machine import boot_id
from diffusionpipeline.v1 import peer_pb2


def this_process(pod_uid: str) -> peer_pb2.Process:
    """To be made once; without a pod, by what is the machine's own and another after each boot."""
    return peer_pb2.Process(pod_uid=pod_uid or boot_id() or socket.gethostname(), started_at=time.time())
