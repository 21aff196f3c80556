"""Prometheus' rate() and increase() miss the first event of a series that begins with it: so each is there before."""

from __future__ import annotations

from typing import Protocol

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diffusion_operator.cluster.kinds import CHILDREN
from diffusion_operator.metrics import Metrics as OperatorMetrics
from diffusion_router import core
from diffusion_router.metrics import Metrics as RouterMetrics
from diffusion_worker.metrics import Metrics as WorkerMetrics
from diffusion_worker.transport import ModeMismatch, PoolFull, SlotLost, TooLarge, errors
from diffusion_worker.work.store import StoreRefused
from diffusion_worker.work.tasks import DeadlinePassed, classify
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import Stage

POOLS = (errors.TransportError, PoolFull, TooLarge)
PULLS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.TransportError) and error not in POOLS
]
FAILURES = ("INVALID_REQUEST", "MODEL_ERROR", "TOO_LARGE", "RETRIES_EXHAUSTED", "POISON", "DEADLINE")
JOB_ENDS = [
    (job_pb2.JOB_STATUS_COMPLETED, core.FailureKind.UNSPECIFIED),
    (job_pb2.JOB_STATUS_CANCELLED, core.FailureKind.CANCELLED),
    *((job_pb2.JOB_STATUS_FAILED, core.FailureKind[name]) for name in FAILURES),
]


class Rendered(Protocol):
    def render(self) -> bytes: ...


def series(metrics: Rendered) -> dict[tuple[str, ...], float]:
    """Values by name and labels, but for times."""
    return {
        (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if not sample.name.endswith(("_created", "_timestamp_seconds"))
    }


@pytest.mark.parametrize("stage", Stage)
def test_a_workers_task_of_any_end_adds_no_series(stage: Stage) -> None:
    metrics = WorkerMetrics(stage.role, [stage])
    before = series(metrics)
    mine = metrics.stages[stage]
    mine.completed(copy=False, parked=False).inc()
    for error in (ValueError(), ModeMismatch(), PoolFull(), TooLarge(), SlotLost(), StoreRefused(), DeadlinePassed()):
        mine.failed(classify(error)[0])
    for kind in (stage_pb2.FAILURE_KIND_CANCELLED, stage_pb2.FAILURE_KIND_HANDED_BACK):
        mine.failed(kind)
    after = series(metrics)
    assert after.keys() == before.keys()
    assert sum(value for (name, *_), value in before.items() if name == "diffusion_worker_tasks_total") == 0
    assert sum(value for (name, *_), value in after.items() if name == "diffusion_worker_tasks_total") == 10


@pytest.mark.parametrize("stage", [Stage.DENOISE, Stage.DECODE])
def test_a_workers_failed_pull_adds_no_series(stage: Stage) -> None:
    metrics = WorkerMetrics(stage.role, [stage])
    before = series(metrics)
    for kind in (*(error.kind for error in PULLS), "cancelled"):
        metrics.stages[stage].transfer_failed(kind)
    after = series(metrics)
    assert after.keys() == before.keys()
    failures = {key: value for key, value in after.items() if key[0] == "diffusion_worker_transfer_failures_total"}
    assert set(failures.values()) == {1}, "each of them can happen"


def test_a_denoising_that_is_parked_and_one_that_goes_on_add_no_series() -> None:
    metrics = WorkerMetrics("denoiser", [Stage.DENOISE])
    before = series(metrics)
    metrics.stages[Stage.DENOISE].park_duration.observe(1.0)
    metrics.stages[Stage.DENOISE].resumed.inc()
    after = series(metrics)
    assert after.keys() == before.keys()
    assert after["diffusion_worker_resumed_total", "role=denoiser"] == 1
    assert after["diffusion_worker_park_duration_seconds_count", "role=denoiser"] == 1
    encoder = series(WorkerMetrics("encoder", [Stage.ENCODE]))
    assert not any("park" in name or "resumed" in name for name, *_ in encoder)


def test_a_checkpoint_of_what_goes_on_adds_no_series() -> None:
    metrics = WorkerMetrics("denoiser", [Stage.DENOISE])
    before = series(metrics)
    mine = metrics.stages[Stage.DENOISE]
    mine.checkpoint_duration.observe(1.0)
    mine.checkpoint_bytes.inc(4096)
    mine.checkpoints_left_out.inc()
    after = series(metrics)
    assert after.keys() == before.keys()
    assert after["diffusion_worker_checkpoint_bytes_total", "role=denoiser"] == 4096
    assert not any("checkpoint" in name for name, *_ in series(WorkerMetrics("encoder", [Stage.ENCODE])))


@pytest.mark.parametrize(("status", "kind"), JOB_ENDS)
def test_a_job_of_any_end_adds_no_series(status: job_pb2.JobStatus, kind: core.FailureKind) -> None:
    metrics = RouterMetrics()
    before = series(metrics)
    job = job_pb2.Job(status=status)
    if kind is not core.FailureKind.UNSPECIFIED:
        job.failure.kind = stage_pb2.FailureKind.ValueType(kind.value)
    for stage in core.Stage:
        told = job.stages.add(stage=stage.value, queue_seconds=1)
        told.timings.compute_seconds = 1
        if stage is not core.Stage.ENCODE:
            told.timings.transfer_bytes = 1
    metrics.job_ended(job, 1.0)
    after = series(metrics)
    assert after.keys() == before.keys()
    ended = {key: value for key, value in after.items() if key[0] == "diffusion_router_requests_total"}
    assert len(ended) == len(JOB_ENDS)
    assert sum(ended.values()) == 1


def test_an_encoding_that_served_other_jobs_too_is_counted_once() -> None:
    metrics = RouterMetrics()
    for shared in (False, True, True):
        job = job_pb2.Job(status=job_pb2.JOB_STATUS_COMPLETED)
        job.stages.add(stage=stage_pb2.STAGE_ENCODE, shared=shared).timings.compute_seconds = 2
        metrics.job_ended(job, 1.0)
    found = series(metrics)
    assert found["diffusion_router_stage_duration_seconds_count", "role=encoder"] == 1
    assert found["diffusion_router_stage_duration_seconds_sum", "role=encoder"] == 2


def test_what_befalls_children_and_watches_adds_no_series() -> None:
    metrics = OperatorMetrics(concurrency=1, host="server", lease="lease")
    before = series(metrics)
    for kind in CHILDREN:
        metrics.reverted(kind.kind)
    assert series(metrics).keys() == before.keys()
