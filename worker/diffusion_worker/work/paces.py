"""How long forwards take on this worker, by what they compute and by how many requests share them.

The router is told with each heartbeat: whether it pays to put one more request beside others is measured here, not
assumed there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from diffusionpipeline.v1 import peer_pb2

MAX_KEPT: Final = 64
_WEIGHT: Final = 0.2


class Paces:
    """Moving averages. Written on the compute thread, read on the event loop."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[tuple[str, int], float] = OrderedDict()

    def observe(self, shape: str, requests: int, seconds: float) -> None:
        """A forward of this shape, which so many requests shared, took so long."""
        key = (shape, requests)
        before = self._seconds.get(key, seconds)
        self._seconds[key] = before + _WEIGHT * (seconds - before)
        self._seconds.move_to_end(key)
        if len(self._seconds) > MAX_KEPT:
            self._seconds.popitem(last=False)

    def reports(self) -> list[peer_pb2.ForwardTime]:
        """The latest, by shape and number of requests."""
        return [
            peer_pb2.ForwardTime(shape=shape, requests=requests, seconds=seconds)
            for (shape, requests), seconds in sorted(self._seconds.copy().items())
        ]
