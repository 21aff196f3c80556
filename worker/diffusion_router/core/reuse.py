"""How often jobs found what encodes the same, and why what was kept for them went: counts since the router started."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Lookup(StrEnum):
    """What a job that is to encode found."""

    HIT = "hit"
    """An output: it goes on with that."""
    WAIT = "wait"
    """Another that is to encode the same: it waits for what that one makes."""
    MISS = "miss"
    """Neither: it is to encode itself."""


class Eviction(StrEnum):
    """Why an output that was kept for jobs to come went."""

    SHARE = "share"
    """Its pool's share was full, and it the one longest unused."""
    ROOM = "room"
    """A task needed the room."""
    GONE = "gone"
    """Whoever keeps it leaves, and nobody takes it over, or is lost, or out of reach."""
    ELSEWHERE = "elsewhere"
    """Jobs begin in another generation, or would have waited for the worker that keeps it while another is idle."""


class Reuse:
    def __init__(self) -> None:
        self.lookups: Counter[Lookup] = Counter()
        self.evictions: Counter[Eviction] = Counter()
