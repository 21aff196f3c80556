"""Jobs as the router would write them down."""

from __future__ import annotations

from typing import Any

from diffusion_router.store import JobRecord
from diffusionpipeline.v1 import job_pb2, stage_pb2


def record(
    job_id: str,
    *,
    key: str | None = None,
    index: int = 0,
    digest: str = "d",
    kills: int = 0,
    output_format: str = "png",
    model: str = "",
    **terms: Any,
) -> JobRecord:
    """terms: as in JobRecord."""
    return JobRecord(
        id=job_id,
        parameters=stage_pb2.JobParameters(prompt=f"picture of {job_id}", seed=7, output_format=output_format),
        created_at=1000.0,
        deadline_at=1600.0,
        model=model,
        idempotency_key=key,
        index=index,
        digest=digest,
        kills=kills,
        **terms,
    )


def ended(
    job_id: str,
    status: job_pb2.JobStatus.ValueType = job_pb2.JOB_STATUS_COMPLETED,
    at: float = 1010.0,
) -> job_pb2.Job:
    return job_pb2.Job(id=job_id, status=status, completed_at=at, step=4, steps=4)
