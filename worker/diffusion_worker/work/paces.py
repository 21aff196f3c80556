"""How long forwards take on this worker, by what they compute and by how many requests share them.

The router is told with each heartbeat: whether it pays to put one more request beside others is measured here, not
assumed there.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from statistics import median
from typing import Final

from diffusionpipeline.v1 import peer_pb2

MAX_KEPT: Final = 64
# Of a kind. One forward says little: on a machine that does other things too, some take twice as long as others.
LATEST: Final = 128
# What was slow once, while a kernel was compiled or another process had the device, is tried again after that long.
FORGOTTEN_SECONDS: Final = 600.0


class Paces:
    """The median of the latest. Written on the compute thread, read on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: OrderedDict[tuple[str, int], deque[tuple[float, float]]] = OrderedDict()
        """When each was observed, and what; by kind, in the order in which one of a kind was observed last."""

    def observe(self, shape: str, requests: int, seconds: float) -> None:
        """A forward of this shape, which so many requests shared, took so long."""
        key = (shape, requests)
        self._seconds.setdefault(key, deque(maxlen=LATEST)).append((self._clock(), seconds))
        self._seconds.move_to_end(key)
        if len(self._seconds) > MAX_KEPT:
            self._seconds.popitem(last=False)

    def reports(self) -> list[peer_pb2.ForwardTime]:
        """Those of the last while, by shape and number of requests."""
        since = self._clock() - FORGOTTEN_SECONDS
        # Copied whole, in one call each, because the other thread goes on.
        kinds = sorted((kind, list(latest)) for kind, latest in self._seconds.copy().items())
        recent = ((kind, [seconds for at, seconds in latest if at >= since]) for kind, latest in kinds)
        return [
            peer_pb2.ForwardTime(shape=shape, requests=requests, seconds=median(seconds))
            for (shape, requests), seconds in recent
            if seconds
        ]
