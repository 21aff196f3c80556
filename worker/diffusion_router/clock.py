"""The store's clock: by what deadlines and the time to be kept are written down.

The wall clock may be set, and jump by days; the clock that began with the machine never is, but begins anew with it.
So within one start of the machine the store's clock goes with the latter, from where the wall clock was first seen; and
over a start of the machine it goes with the wall clock, less by what that was seen to have jumped. A jump at any
moment, before, between or after restarts of the router, moves no deadline and deletes nothing early.
"""

from __future__ import annotations

from typing import Final

from diffusion_router.store import JobStore

# Less than this the wall clock may be ahead, or behind, without being written down.
_TOLERANCE: Final = 1.0


class StoreClock:
    """Times are arguments: `wall` is seconds since 1970 as the machine has it now, `up` its uptime."""

    def __init__(self, jobs: JobStore, boot: str, base: float, lag: float) -> None:
        self._jobs = jobs
        self._boot = boot
        self._base = base
        self._lag = lag

    @classmethod
    async def open(cls, jobs: JobStore, *, boot: str, wall: float, up: float) -> StoreClock:
        """Raises StoreUnavailable."""
        known = await jobs.clock()
        if known is not None and boot and known[0] == boot:
            return cls(jobs, *known)
        lag = known[2] if known is not None else 0.0
        clock = cls(jobs, boot, wall - up - lag, lag)
        await jobs.keep_clock(boot, clock._base, lag)
        return clock

    def at(self, up: float) -> float:
        return up + self._base

    async def watch(self, wall: float, up: float) -> None:
        """To be called now and then: what the wall clock has jumped is written down. Raises StoreUnavailable."""
        lag = wall - self.at(up)
        if abs(lag - self._lag) > _TOLERANCE:
            await self._jobs.keep_clock(self._boot, self._base, lag)
            self._lag = lag
