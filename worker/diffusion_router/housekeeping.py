"""What the router clears away: ended jobs whose time is over, and files that no job names.

Files of no job are told by seeing them twice, an hour apart: one may belong to a request that is still coming in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Final

import structlog

from diffusion_router.clock import StoreClock
from diffusion_router.store import ArtifactStore, JobRecord, JobStore, StoreUnavailable
from diffusionpipeline.process.machine import uptime

SWEEP_SECONDS: Final = 30.0
STRAY_SECONDS: Final = 3600.0
# Files of no job that are remembered at once.
_MAX_STRAYS: Final = 10_000

log = structlog.get_logger()


class Housekeeping:
    """Times are arguments: `wall` is seconds since 1970, `up` those since the machine started."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, clock: StoreClock, *, up: float) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._clock = clock
        self._strays_looked_for = up
        self._strays: dict[str, float] = {}
        """Files that no job named, and when that was first seen."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep(time.time(), uptime())

    async def sweep(self, wall: float, up: float) -> None:
        try:
            await self._clock.watch(wall, up)
            await self.forget(await self._jobs.expire(self._clock.at(up)))
            if up - self._strays_looked_for >= STRAY_SECONDS / 2:
                self._strays_looked_for = up
                await self._remove_strays(up)
        except StoreUnavailable as error:
            log.warning("not_cleared_away", error=str(error))

    async def forget(self, records: Iterable[JobRecord]) -> None:
        """Jobs that have ended, and their files. Raises StoreUnavailable.

        The row goes first: cut off in between, this leaves files of no job, which go in time; the other way round, it
        would leave a completed job without what it made.
        """
        for record in records:
            shared = await self._jobs.shares_inputs(record)
            await self._jobs.delete(record.id)
            await self._artifacts.delete_prefix(f"jobs/{record.id}/")
            if not shared:
                for file in record.parameters.inputs:
                    await self._artifacts.delete(file.key)

    async def _remove_strays(self, up: float) -> None:
        named = await self._jobs.input_keys()
        found: set[str] = set()
        async for keys in self._artifacts.all_keys():
            found |= await self._named_by_nobody(keys, named)
        self._strays = {key: since for key, since in self._strays.items() if key in found}
        for key in found:
            if len(self._strays) < _MAX_STRAYS:
                self._strays.setdefault(key, up)
        due = [key for key, since in self._strays.items() if up - since >= STRAY_SECONDS]
        for key in due:
            await self._artifacts.remove(key)
            del self._strays[key]
        if due:
            log.info("files_of_no_job_removed", count=len(due))

    async def _named_by_nobody(self, keys: Iterable[str], named: Collection[str]) -> set[str]:
        inputs = {key for key in keys if key.startswith("inputs/")}
        by_job = {key: key.split("/")[1] for key in keys if key.startswith("jobs/") and key.count("/") >= 2}
        known = await self._jobs.known(sorted(set(by_job.values()))) if by_job else set()
        return (inputs - set(named)) | {key for key, job_id in by_job.items() if job_id not in known}
