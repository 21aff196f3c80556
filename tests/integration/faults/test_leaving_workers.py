"""I12: denoisers are told to leave while they denoise, under load; others go on from where they were, and no step is
made twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import aio

from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, stage_pb2
from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, STARTUP_SECONDS, at_rest, metric, peers, running
from testbed.waiting import eventually, until
from testbed.zoo import FAMILIES, ensure

DRAINS = 12
DRAINS_IN_GATE = 2
CLIENTS = 3
STEPS = 24
SEEDS = range(6)
_TRANSPORTS = {
    "tcp": {"backend": "tcp"},
    "shm": {"backend": "shm"},
    "mooncake": {"backend": "mooncake", "protocol": "tcp"},
}


@dataclass
class Clients:
    """They ask for one product after the other, and compare each with what it must be."""

    local: LocalPipeline
    asked: Mapping[str, Any]
    expected: dict[int, bytes] = field(default_factory=dict)
    jobs: list[job_pb2.Job] = field(default_factory=list)

    async def learn(self) -> None:
        """What each is, made alone."""
        async with self._connected() as (jobs, http):
            for seed in SEEDS:
                self.expected[seed] = await self._product(jobs, http, seed)
        self.jobs.clear()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number, stop))
            try:
                yield
            finally:
                stop.set()

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        async with self._connected() as (jobs, http):
            while not stop.is_set():
                seed = SEEDS[number % len(SEEDS)]
                assert await self._product(jobs, http, seed) == self.expected[seed], f"{seed} is another product"
                number += 1

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[job_pb2_grpc.JobServiceStub, httpx.AsyncClient]]:
        async with (
            aio.insecure_channel(self.local.grpc_address) as channel,
            httpx.AsyncClient(base_url=self.local.http_url) as http,
        ):
            yield job_pb2_grpc.JobServiceStub(channel), http

    async def _product(self, jobs: job_pb2_grpc.JobServiceStub, http: httpx.AsyncClient, seed: int) -> bytes:
        parameters = stage_pb2.JobParameters(seed=seed, **self.asked)
        accepted = await jobs.CreateJob(job_pb2.CreateJobRequest(parameters=parameters), timeout=JOB_SECONDS)
        job = accepted.job
        async for watched in jobs.WatchJob(job_pb2.WatchJobRequest(id=job.id), timeout=JOB_SECONDS):
            job = watched.job
        assert job.status == job_pb2.JOB_STATUS_COMPLETED, job
        self.jobs.append(job)
        answer = await http.get(f"/v1/files/{job.artifacts[0].key}", timeout=JOB_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.content


def denoisings(job: job_pb2.Job) -> list[job_pb2.StageReport]:
    return [stage for stage in job.stages if stage.stage == stage_pb2.STAGE_DENOISE]


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
