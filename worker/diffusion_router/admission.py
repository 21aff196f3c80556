"""Admission: whether a request becomes jobs, and what is written down of them.

The queue is bounded, a repeated request finds its first jobs, and a missing seed is drawn before the job is written
down, so that every retry makes the same bytes.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from diffusion_router.metrics import Metrics
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.store import JobRecord, JobStore
from diffusionpipeline.v1 import stage_pb2

# Seeds are drawn below this, so that every client's JSON parser holds them exactly.
_MAX_SEED: Final = 2**32


class QueueFull(Exception):
    """No more jobs can wait. `retry_after`: predicted seconds until one would be let in."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"The queue is full; try again in about {retry_after:.0f} s")
        self.retry_after = retry_after


class IdempotencyConflict(Exception):
    """The key was used for another request before."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request: repeat that one unchanged, or take a new key"
        )


class Admission:
    def __init__(self, dispatcher: Dispatcher, jobs: JobStore, metrics: Metrics, max_queued: int) -> None:
        self._dispatcher = dispatcher
        self._jobs = jobs
        self._metrics = metrics
        self._max_queued = max_queued

    async def earlier(self, key: str, digest: str) -> list[JobRecord]:
        """The jobs that the same request made under this key; none if the key is new. Raises IdempotencyConflict."""
        known = await self._jobs.by_idempotency_key(key)
        check_same(known, digest)
        return known

    def check_room(self, coming: int, entering: int) -> None:
        """entering: jobs that are let in, but not with the core yet. Raises QueueFull."""
        waiting = self._dispatcher.core.waiting() + entering
        if waiting + coming > self._max_queued:
            self._metrics.rejected.inc()
            raise QueueFull(max(1.0, self._dispatcher.core.predicted_wait()))


def check_same(known: Iterable[JobRecord], digest: str) -> None:
    """Raises IdempotencyConflict unless all of these jobs were made by the request of this digest."""
    if any(record.digest != digest for record in known):
        raise IdempotencyConflict


def new_records(
    requests: Sequence[stage_pb2.JobParameters], *, model: str, digest: str, key: str | None, timeout: float
) -> list[JobRecord]:
    """The jobs of one request, `timeout` seconds before their deadline. Without a seed one is drawn, and counted up."""
    now = time.time()
    seed = secrets.randbelow(_MAX_SEED - len(requests))
    return [
        JobRecord(
            id=f"job_{uuid.uuid4().hex}",
            parameters=_with_seed(request, seed + index),
            created_at=now,
            deadline_at=now + timeout,
            model=model,
            idempotency_key=key,
            index=index,
            digest=digest,
        )
        for index, request in enumerate(requests)
    ]


def digest_of(requests: Iterable[stage_pb2.JobParameters]) -> str:
    """Equal for requests that ask for the same."""
    digest = hashlib.sha256()
    for request in requests:
        # An upload has another key each time it is sent.
        comparable = stage_pb2.JobParameters()
        comparable.CopyFrom(request)
        for file in comparable.inputs:
            file.key = ""
        data = comparable.SerializeToString(deterministic=True)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _with_seed(request: stage_pb2.JobParameters, seed: int) -> stage_pb2.JobParameters:
    parameters = stage_pb2.JobParameters()
    parameters.CopyFrom(request)
    if not parameters.HasField("seed"):
        parameters.seed = seed
    return parameters
