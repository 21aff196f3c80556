"""How long forwards take on this worker, by what they compute and by how many requests share them.

The router is told with each heartbeat: whether it pays to put one more request beside others is measured here, not
assumed there.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from diffusionpipeline.v1 import peer_pb2

MAX_KEPT: Final = 64
_WEIGHT: Final = 0.2
# What was slow once, while a kernel was compiled or another process had the device, is tried again after that long.
FORGOTTEN_SECONDS: Final = 600.0


class Paces:
    """Moving averages. Written on the compute thread, read on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()
        """With when it was last observed, that being the order."""

    def observe(self, shape: str, requests: int, seconds: float) -> None:
        """A forward of this shape, which so many requests shared, took so long."""
        key = (shape, requests)
        before, _ = self._seconds.get(key, (seconds, 0.0))
        self._seconds[key] = (before + _WEIGHT * (seconds - before), self._clock())
        self._seconds.move_to_end(key)
        if len(self._seconds) > MAX_KEPT:
            self._seconds.popitem(last=False)

    def reports(self) -> list[peer_pb2.ForwardTime]:
        """Those of the last while, by shape and number of requests."""
        since = self._clock() - FORGOTTEN_SECONDS
        return [
            peer_pb2.ForwardTime(shape=shape, requests=requests, seconds=seconds)
            for (shape, requests), (seconds, at) in sorted(self._seconds.copy().items())
            if at >= since
        ]
