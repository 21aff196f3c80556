"""Slots of this worker's pool for those who can wait a moment for one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from diffusion_worker.transport import Pool, PoolFull, Slot
from diffusion_worker.work.tasks import DeadlinePassed, Task

# How long a full pool is given to make room, and how often one looks for slots that come out of quarantine.
ROOM_SECONDS: Final = 5.0
ROOM_POLL_SECONDS: Final = 0.05


class Room:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._released = asyncio.Event()

    async def lease(self, task: Task, nbytes: int) -> Slot:
        """A slot, if need be after a short wait for one to be released. Raises PoolFull, TooLarge, DeadlinePassed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ROOM_SECONDS
        while True:
            try:
                return self._pool.lease(nbytes, task.id)
            except PoolFull:
                if loop.time() >= task.deadline:
                    raise DeadlinePassed("the pool stayed full until the job's deadline") from None
                if loop.time() >= until:
                    raise
            self._released.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOM_POLL_SECONDS):
                    await self._released.wait()

    def release(self, slot: Slot) -> None:
        """Gives a slot back, and wakes those who wait for one."""
        self._pool.release(slot)
        self._released.set()
