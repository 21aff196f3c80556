"""Synchronous requests: wait until the jobs have ended, or the client has hung up.

A client that hangs up wants its pictures no more: its jobs are cancelled. But not when it gave an idempotency key. Then
a broken connection is most likely followed by the same request with the same key, which has to find the jobs alive; if
it never comes, their deadline ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final

from starlette.requests import Request

from diffusion_router.api.errors import ApiError, job_error, not_found
from diffusion_router.api.submission import Api, Submitted
from diffusionpipeline.v1 import job_pb2

# The core ends a job at its deadline; this is for its answer to arrive.
_GRACE_SECONDS: Final = 15.0


class ClientGone(Exception):
    """Nobody is left to answer."""


class Restarting(ApiError):
    """The router stops while the jobs are under way; it takes them up again when it is back."""

    def __init__(self) -> None:
        text = "The router is restarting; the job goes on"
        super().__init__(503, text, code="restarting", headers={"Retry-After": "2"})


async def wait_for_all(api: Api, request: Request, submitted: Submitted) -> list[job_pb2.Job]:
    """The completed jobs in their order. Raises ClientGone, or ApiError for the first that did not complete.

    When one fails, or the client is gone and left no key, the jobs that are left are cancelled.
    """
    ids = [job.id for job in submitted.jobs]
    timeout = (submitted.request.terms.timeout or api.limits.max_seconds) + _GRACE_SECONDS
    waiting = asyncio.create_task(_completed(api, ids, timeout))
    hang_up = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({waiting, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if not submitted.keyed:
            cancel_all(api, ids)
        raise ClientGone
    except Restarting:
        raise
    except ApiError:
        cancel_all(api, ids)
        raise
    finally:
        waiting.cancel()
        hang_up.cancel()


def cancel_all(api: Api, ids: Sequence[str]) -> None:
    """Those that have ended stay as they ended."""
    for job_id in ids:
        api.spawn(_cancel(api, job_id))


async def _cancel(api: Api, job_id: str) -> None:
    try:
        await api.service.cancel(job_id)
    except TimeoutError:
        # It is asked for, and the job's deadline ends it anyhow.
        return


async def _completed(api: Api, ids: Sequence[str], timeout: float) -> list[job_pb2.Job]:
    ended: dict[str, job_pb2.Job] = {}
    waits = [asyncio.create_task(api.service.wait(job_id, timeout)) for job_id in ids]
    try:
        for next_ended in asyncio.as_completed(waits):
            job = await _job_or_restart(next_ended)
            if job is None:
                raise not_found("Job", ", ".join(ids))
            if job.status != job_pb2.JOB_STATUS_COMPLETED:
                raise job_error(job)
            ended[job.id] = job
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    return [ended[job_id] for job_id in ids]


async def _job_or_restart(end: Awaitable[job_pb2.Job | None]) -> job_pb2.Job | None:
    try:
        return await end
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not this request was called off, but its job's end.
        raise Restarting from None


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
