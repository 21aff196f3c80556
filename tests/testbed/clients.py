"""Clients of a pipeline under load, which know what must come of every request and see all that becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from grpc import aio

from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, stage_pb2
from dpipe.up.local import LocalPipeline
from testbed.pipelines import JOB_SECONDS


@dataclass
class Clients:
    """They ask for one product after the other, and compare each with what it must be."""

    local: LocalPipeline
    asked: Mapping[str, Any]
    count: int = 3
    seeds: Sequence[int] = range(6)
    expected: dict[int, bytes] = field(default_factory=dict)
    jobs: list[job_pb2.Job] = field(default_factory=list)
    """Those that have ended, in order."""
    watched: Callable[[job_pb2.Job], None] = lambda job: None
    """Told of all that is heard of each."""

    async def learn(self) -> None:
        """What each is, made alone."""
        async with self._connected() as (jobs, http):
            for seed in self.seeds:
                self.expected[seed] = await self._product(jobs, http, seed)
        self.jobs.clear()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._client(number, stop))
            try:
                yield
            finally:
                stop.set()

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        async with self._connected() as (jobs, http):
            while not stop.is_set():
                seed = self.seeds[number % len(self.seeds)]
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
            self.watched(job)
        assert job.status == job_pb2.JOB_STATUS_COMPLETED, job
        self.jobs.append(job)
        answer = await http.get(f"/v1/files/{job.artifacts[0].key}", timeout=JOB_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.content


def denoisings(job: job_pb2.Job) -> list[job_pb2.StageReport]:
    return [stage for stage in job.stages if stage.stage == stage_pb2.STAGE_DENOISE]
