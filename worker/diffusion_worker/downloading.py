"""How far a download is: for those who read the log, scrape metrics, or ask whether the worker is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

import structlog

from diffusion_worker.metrics import Metrics
from diffusionpipeline.words import portion

LOG_SHARE: Final = 0.1
LOG_SECONDS: Final = 60.0

log = structlog.get_logger()


class Downloading:
    """Told of by several threads, asked by another."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = Lock()
        self._done = self._size = 0
        self._logged_share = self._logged_at = 0.0
        self._began_whole: bool | None = None

    @property
    def progress(self) -> str:
        """Such as 41 %, 3.2 of 7.8 GiB. Empty: nothing is being downloaded, or it is not known yet how much."""
        with self._lock:
            done, size = self._done, self._size
        return "" if done >= size else portion(done, size)

    @property
    def bytes(self) -> tuple[int, int]:
        """That are there, and of how many."""
        with self._lock:
            return self._done, self._size

    def told(self, done: int, size: int) -> None:
        """`done` of `size` bytes are there."""
        with self._lock:
            if self._began_whole is None:
                self._began_whole = done >= size
                self._logged_share, self._logged_at = done / max(1, size), self._clock()
            self._done, self._size = done, size
            share, now = done / max(1, size), self._clock()
            due = share - self._logged_share >= LOG_SHARE or now - self._logged_at >= LOG_SECONDS
            due = not self._began_whole and (due or (done >= size and self._logged_share < 1))
            if due:
                self._logged_share, self._logged_at = share, now
        self._metrics.set_download(done, size)
        if due:
            log.info("downloading", progress=portion(done, size), bytes=done, of=size)
