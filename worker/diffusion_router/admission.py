"""Admission: what is written down of a request that becomes jobs, and who is refused, counted.

Whether it becomes any is the core's to say (`core.admission`). A repeated request finds its first jobs, and a missing
seed is drawn before the job is written down, so that every retry makes the same bytes.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_router.core import Prediction, QueueFull, Refused, TooLate, admit
from diffusion_router.metrics import Metrics
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.store import JobRecord, JobStore
from diffusionpipeline.v1 import job_pb2, stage_pb2

# Seeds are drawn below this, so that every client's JSON parser holds them exactly.
_MAX_SEED: Final = 2**32
_REASONS: Final = {QueueFull: "queue_full", TooLate: "too_late"}


@dataclass(frozen=True, slots=True)
class Terms:
    """How jobs are to be served; what they make is the same. Times in seconds from their acceptance."""

    timeout: float | None = None
    """None: the router's own."""
    accept_late: bool = False
    """Accepted also if they are predicted to end after their deadline."""
    target: float = 0.0
    """In which they should end. 0: by the policy."""
    priority: job_pb2.Priority.ValueType = job_pb2.PRIORITY_STANDARD
    tenant: str = ""
    """Whose they are; empty: nobody said."""


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

    def check(
        self, shapes: Sequence[str], *, entering: int, timeout: float, accept_late: bool, now: float
    ) -> Prediction:
        """`core.admit`, counted. Raises Refused."""
        try:
            return admit(
                self._dispatcher.core,
                shapes,
                entering=entering,
                timeout=timeout,
                accept_late=accept_late,
                max_queued=self._max_queued,
                now=now,
            )
        except Refused as refused:
            self._metrics.rejected.labels(_REASONS[type(refused)]).inc()
            raise


def check_same(known: Iterable[JobRecord], digest: str) -> None:
    """Raises IdempotencyConflict unless all of these jobs were made by the request of this digest."""
    if any(record.digest != digest for record in known):
        raise IdempotencyConflict


def new_records(
    requests: Sequence[stage_pb2.JobParameters],
    terms: Terms,
    *,
    model: str,
    digest: str,
    key: str | None,
    accepted: float,
    timeout: float,
) -> list[JobRecord]:
    """The jobs of one request. Without a seed one is drawn, and counted up. accepted: on the store's clock."""
    now = time.time()
    seed = secrets.randbelow(_MAX_SEED - len(requests))
    return [
        JobRecord(
            id=f"job_{uuid.uuid4().hex}",
            parameters=_with_seed(request, seed + index),
            created_at=now,
            deadline_at=accepted + timeout,
            accepted_at=accepted,
            target_seconds=terms.target,
            priority=terms.priority,
            tenant=terms.tenant,
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
