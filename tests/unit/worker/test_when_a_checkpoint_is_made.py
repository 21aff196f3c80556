"""A checkpoint of a denoising that goes on is made at the last step that ends in time, by what the last one took."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from diffusion_worker.metrics import Metrics
from diffusion_worker.transport import Pool
from diffusion_worker.transport.pool import allocate
from diffusion_worker.work.holdings import Holdings
from diffusion_worker.work.snapshots import Snapshots
from diffusion_worker.work.tasks import Asked, Task
from diffusionpipeline.v1 import peer_pb2
from diffusionpipeline.words import Stage

STEPS = 4


class Loop:
    """A compute thread whose callbacks are called at once."""

    def post(self, callback: Any, *arguments: object) -> None:
        callback(*arguments)


@pytest.fixture
def told() -> list[peer_pb2.PeerReport]:
    return []


@pytest.fixture
def snapshots(told: list[peer_pb2.PeerReport]) -> Snapshots:
    pool = Pool(allocate(1 << 20), incarnation="i", mode="memory", url="")
    metrics = Metrics("denoiser", [Stage.DENOISE])
    holdings = Holdings(metrics, told.append, pool.release)
    return Snapshots(cast(Any, Loop()), pool, metrics, holdings, told.append, "g1")


def denoising(*, within: float, step_seconds: float) -> Task:
    task = Task("n", "job", Stage.DENOISE, peer_pb2.Execute(), (0, 0.0, 0), 1e9, resumable=True)
    task.step_seconds = step_seconds
    task.asked = Asked("kept", time.monotonic() + within)
    return task


def made_at(snapshots: Snapshots, task: Task, step: int) -> bool:
    snapshots.at_step(task, {}, step, STEPS, lambda: {"step": step})
    return task.asked is None


@pytest.mark.parametrize(
    ("within", "step_seconds", "made"),
    [(1000.0, 10.0, False), (1000.0, 5000.0, True), (0.0, 10.0, True), (-5.0, 0.0, True)],
    ids=["the next step ends in time too", "the next one would not", "now", "it is late"],
)
def test_it_waits_for_the_last_step_in_time(
    snapshots: Snapshots, told: list[peer_pb2.PeerReport], within: float, step_seconds: float, made: bool
) -> None:
    assert made_at(snapshots, denoising(within=within, step_seconds=step_seconds), 1) is made
    assert [report.stage_done.task_id for report in told] == ["kept"] * made


def test_after_the_last_step_there_is_none(snapshots: Snapshots, told: list[peer_pb2.PeerReport]) -> None:
    assert not made_at(snapshots, denoising(within=0.0, step_seconds=1.0), STEPS)
    assert not told


def test_what_it_takes_is_part_of_no_step(snapshots: Snapshots) -> None:
    task = denoising(within=0.0, step_seconds=1.0)
    task.step_at = 7.0
    assert made_at(snapshots, task, 1)
    assert task.step_at > 7.0
