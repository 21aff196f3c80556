"""A job's life as server-sent events.

`queue` while it waits for its first peer, `stage` when a stage is given to a peer, `step` after denoising steps (those
that come faster than they are sent are skipped), and `end`, with the whole job, as the last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from pydantic import BaseModel

from diffusion_router.api.objects import has_ended, job_object
from diffusionpipeline.v1 import job_pb2

# Proxies drop a connection on which nothing is heard for some tens of seconds.
_KEEP_ALIVE_SECONDS: Final = 15.0


async def job_events(
    changes: AsyncIterator[job_pb2.Job], describe: Callable[[job_pb2.Job], BaseModel]
) -> AsyncIterator[bytes]:
    """`changes` as JobService.watch gives them; `describe` makes the job of the last event."""
    previous: job_pb2.Job | None = None
    pending: asyncio.Task[job_pb2.Job | None] = asyncio.create_task(_next(changes))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_KEEP_ALIVE_SECONDS)
            if not done:
                yield b": keep-alive\n\n"
                continue
            job = pending.result()
            if job is None:
                return
            for event, data in _differences(previous, job):
                yield _encode(event, json.dumps(data))
            if has_ended(job):
                yield _encode("end", describe(job).model_dump_json())
                return
            previous = job
            pending = asyncio.create_task(_next(changes))
    finally:
        pending.cancel()


async def _next(changes: AsyncIterator[job_pb2.Job]) -> job_pb2.Job | None:
    return await anext(changes, None)


def _differences(previous: job_pb2.Job | None, job: job_pb2.Job) -> Iterator[tuple[str, dict[str, object]]]:
    if previous is None and job.status == job_pb2.JOB_STATUS_QUEUED:
        yield "queue", {"id": job.id}
    known = 0 if previous is None else len(previous.stages)
    described = job_object(job, "", 0.0)
    for report in described.stages[known:]:
        yield "stage", {"id": job.id, **report.model_dump(include={"stage", "pod_name", "attempt", "queue_seconds"})}
    if job.step and (previous is None or (job.step, job.steps) != (previous.step, previous.steps)):
        yield "step", {"id": job.id, "step": job.step, "steps": job.steps, "progress": described.progress}


def _encode(event: str, data: str) -> bytes:
    return f"event: {event}\ndata: {data}\n\n".encode()
