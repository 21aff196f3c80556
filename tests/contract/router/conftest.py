from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from diffusion_router.app import Ports, serve
from diffusion_router.settings import Settings
from diffusionpipeline.v1 import job_pb2_grpc, registry_pb2_grpc

DEADLINE = 20.0


@dataclass
class Router:
    """A whole router in this process, on ports of its own."""

    settings: Settings
    ports: Ports
    stop: asyncio.Event
    task: asyncio.Task[None]

    def __post_init__(self) -> None:
        self.target = f"127.0.0.1:{self.ports.grpc}"
        self.url = f"http://127.0.0.1:{self.ports.http}"
        self.channel = grpc.aio.insecure_channel(self.target)
        self.jobs = job_pb2_grpc.JobServiceStub(self.channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(self.channel)
        self.artifacts = job_pb2_grpc.ArtifactServiceStub(self.channel)

    async def shut_down(self) -> None:
        await self.channel.close()
        self.stop.set()
        await asyncio.wait_for(self.task, DEADLINE)


Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def start_router(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts routers on one data folder, one after the other or with settings of its own."""
    routers: list[Router] = []

    async def start(**overrides: object) -> Router:
        values = {"data_dir": tmp_path / "data", "http_port": 0, "grpc_port": 0, "lease_seconds": 2.0}
        settings = Settings(**{**values, "settle_seconds": 0.5, **overrides})
        stop = asyncio.Event()
        ready: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()

        async def tell(ports: Ports) -> None:
            ready.set_result(ports)

        task = asyncio.create_task(serve(settings, stop=stop, ready=tell))
        await asyncio.wait({task, ready}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        router = Router(settings, ready.result(), stop, task)
        routers.append(router)
        return router

    yield start
    await asyncio.gather(*(router.shut_down() for router in routers if not router.task.done()))


@pytest.fixture
async def router(start_router: Start) -> Router:
    return await start_router()
