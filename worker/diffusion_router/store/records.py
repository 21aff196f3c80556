"""A job as the store keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diffusionpipeline.v1 import job_pb2, stage_pb2

UNFINISHED: Final = (job_pb2.JOB_STATUS_QUEUED, job_pb2.JOB_STATUS_IN_PROGRESS)
ENDED: Final = (
    job_pb2.JOB_STATUS_COMPLETED,
    job_pb2.JOB_STATUS_FAILED,
    job_pb2.JOB_STATUS_CANCELLED,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """One row.

    Times are seconds since 1970: acceptance, deadline and expiry on the store's clock, the others on the wall's.
    `accepted_at` is None of a job that an earlier version of the router accepted. `target_seconds` is 0 where the
    request named no target, and `tenant` is whose job it is, empty where nobody said. `model` is the id
    of the served model that the job was accepted for, empty where that was not known; `index` is the job's place in the
    request that made it; `digest` is the request's, and the same in all of its jobs. `kills` counts the workers that
    died while they ran it. An unfinished job's `status` is the one it was added with: how far it has come is known to
    the router alone, not to the store. `damage` says what of the row could not be read; then `parameters`, or `result`,
    lacks what was there.
    """

    id: str
    parameters: stage_pb2.JobParameters
    created_at: float
    deadline_at: float
    model: str = ""
    idempotency_key: str | None = None
    index: int = 0
    digest: str = ""
    status: job_pb2.JobStatus.ValueType = job_pb2.JOB_STATUS_QUEUED
    kills: int = 0
    accepted_at: float | None = None
    target_seconds: float = 0.0
    priority: job_pb2.Priority.ValueType = job_pb2.PRIORITY_STANDARD
    tenant: str = ""
    completed_at: float | None = None
    expires_at: float | None = None
    result: job_pb2.Job | None = None
    damage: str = ""
