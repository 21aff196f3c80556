"""How a job looks to a client: as it was accepted, as it is now, as it ended."""

from __future__ import annotations

from diffusion_router import core
from diffusion_router.peers import messages
from diffusion_router.store import JobRecord
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import number


def accepted(record: JobRecord) -> job_pb2.Job:
    return job_pb2.Job(
        id=record.id,
        status=record.status,
        parameters=record.parameters,
        created_at=record.created_at,
        model=record.model,
        target_at=record.created_at + record.target_seconds if record.target_seconds else 0.0,
        priority=record.priority,
    )


def status(job: core.Job[messages.Report] | None) -> job_pb2.JobStatus.ValueType:
    """None: it is not with the core yet."""
    if job is None:
        return job_pb2.JOB_STATUS_QUEUED
    # An end that is not written down yet is nobody's to know.
    return number(job_pb2.JobStatus, core.JobStatus.IN_PROGRESS if job.status.ended else job.status)


def now(record: JobRecord, job: core.Job[messages.Report] | None) -> job_pb2.Job:
    view = accepted(record)
    view.status = status(job)
    if job is not None:
        view.stage = stage_pb2.Stage.ValueType(job.stage)
        view.step, view.steps = job.step, job.steps
        view.stages.extend(messages.stage_report(record) for record in job.records)
    return view


def ended(view: job_pb2.Job, end: core.JobEnded[messages.Report], *, at: float) -> job_pb2.Job:
    """view: as it was last. at: seconds since 1970."""
    view.status = number(job_pb2.JobStatus, end.status)
    view.completed_at = at
    if end.result is not None:
        view.artifacts.extend(end.result.artifacts)
    if end.kind:
        view.failure.kind = stage_pb2.FailureKind.ValueType(end.kind)
        view.failure.message = end.message
    return view


def unreadable(record: JobRecord, *, at: float) -> job_pb2.Job:
    """A job of whose row too much is damaged. at: when it ended."""
    job = accepted(record)
    job.status = job_pb2.JOB_STATUS_FAILED
    job.completed_at = at
    job.failure.kind = stage_pb2.FAILURE_KIND_STORE
    job.failure.message = f"the row of this job in the job store is damaged ({record.damage}); send the request again"
    return job
