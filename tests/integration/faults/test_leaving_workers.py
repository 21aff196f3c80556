"""I12: denoisers are told to leave while they denoise, under load; others go on from where they were, and no step is
made twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusionpipeline.v1 import job_pb2, stage_pb2
from dpipe.up.local import LocalPipeline
from testbed.clients import Clients, denoisings
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, STARTUP_SECONDS, at_rest, metric, peers, running
from testbed.waiting import eventually, until
from testbed.zoo import FAMILIES, ensure

DRAINS = 12
DRAINS_IN_GATE = 2
STEPS = 24
_TRANSPORTS = {
    "tcp": {"backend": "tcp"},
    "shm": {"backend": "shm"},
    "mooncake": {"backend": "mooncake", "protocol": "tcp"},
}


@pytest.fixture
def drains(request: pytest.FixtureRequest, in_gate: bool) -> int:
    return int(request.config.getoption("--drains") or (DRAINS_IN_GATE if in_gate else DRAINS))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("model", "backend"),
    [
        ("digits", "tcp"),
        pytest.param("digits", "shm", marks=pytest.mark.thorough),
        pytest.param("digits", "mooncake", marks=pytest.mark.thorough),
        pytest.param("wan21", "tcp", marks=pytest.mark.thorough),
        pytest.param("wan21", "mooncake", marks=pytest.mark.thorough),
    ],
)
async def test_i12_a_denoiser_that_leaves_costs_no_step_and_changes_no_product(
    model: str, backend: str, tmp_path: Path, report: Callable[[str], None], drains: int
) -> None:
    chance = random.Random(7)
    changes: dict[str, Any] = {"roles__denoiser__replicas": 2, "transport": _TRANSPORTS[backend]}
    asked: dict[str, Any] = {"prompt": "a red seven", "num_inference_steps": STEPS, "output_format": "png"}
    if model != "digits":
        family = FAMILIES[model]
        changes["model"] = {"source": "Path", "id": str(ensure(family.checkpoint)), "dtype": "float32"}
        asked = {**family.request, "num_inference_steps": STEPS, "output_format": "mp4"}
        asked.pop("seed", None)
    left: list[float] = []
    with running(resource("digits", **changes), tmp_path) as local:
        clients = Clients(local, asked)
        await clients.learn()
        async with clients.asking():
            for _ in range(drains):
                answered = len(clients.jobs)
                await eventually(lambda n=answered: len(clients.jobs) > n, JOB_SECONDS, "they are answered")
                pod = chance.choice([pod for pod in local.workers if pod.role == "denoiser"])
                before = peers(local)[pod.name].incarnation
                # Any moment of a job: one takes about a second here.
                await asyncio.sleep(chance.random())
                told_at = time.monotonic()
                assert pod.signal(signal.SIGTERM)
                await asyncio.to_thread(
                    until, lambda p=pod, old=before: _incarnation(local, p.name) != old, 60, f"{pod.name} has left"
                )
                left.append(time.monotonic() - told_at)
                await asyncio.to_thread(
                    until, lambda p=pod: _incarnation(local, p.name), STARTUP_SECONDS, f"{pod.name} is back"
                )
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")
        interrupted = metric(local.http_url, "diffusion_router_jobs_interrupted_total")
        failed = metric(local.http_url, "diffusion_router_requests_total", status="failed")
    assert (interrupted, failed) == (0, 0)
    stages = [(before, after) for job in clients.jobs for before, after in _handed_over(job)]
    assert stages, "no denoising was under way when a denoiser left"
    for job in clients.jobs:
        assert sum(stage.timings.steps for stage in denoisings(job)) == STEPS, job
        assert sum(stage.stage == stage_pb2.STAGE_ENCODE for stage in job.stages) == 1, job
    ended, published, pulled, resumed = (
        _extent(seconds)
        for seconds in (
            [before.timings.park_seconds for before, _ in stages],
            [before.timings.publish_seconds for before, _ in stages],
            [after.timings.transfer_seconds for _, after in stages],
            [after.timings.resume_seconds for _, after in stages],
        )
    )
    report(
        f"{drains} drains, {len(clients.jobs)} products, all right; {len(stages)} denoisings parked, 0 steps made "
        f"twice; gone after, median/max s, {_extent(left)}; of a checkpoint: step ended {ended}, published "
        f"{published}, pulled {pulled}, resumed {resumed}"
    )


def _incarnation(local: LocalPipeline, pod: str) -> str:
    peer = peers(local).get(pod)
    return peer.incarnation if peer is not None else ""


def _handed_over(job: job_pb2.Job) -> list[tuple[job_pb2.StageReport, job_pb2.StageReport]]:
    """Of each checkpoint, who made it and who went on."""
    stages = [stage for stage in denoisings(job) if stage.timings.steps]
    return list(itertools.pairwise(stages))


def _extent(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f}/{max(seconds):.3f}"
