from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch

from diffusion_worker.app import serve
from diffusion_worker.health import Ports
from diffusion_worker.model.types import StageModel
from diffusion_worker.settings import Settings
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import Role
from testbed.waiting import eventually

from .scripted_model import ScriptedModel
from .scripted_router import DENOISE, ScriptedRouter, Stream

DEADLINE = 10.0


@dataclass
class Worker:
    """A whole worker in this process, with a scripted model."""

    settings: Settings
    model: Any
    router: ScriptedRouter
    stop: asyncio.Event
    ports: Ports
    task: asyncio.Task[None]

    async def stream(self, after: Stream | None = None) -> Stream:
        stream = await self.router.attached(self.settings.pod_name, after=after)
        stream.metrics_url = f"http://127.0.0.1:{self.ports.http}/metrics"
        return stream

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{self.ports.http}{path}", timeout=DEADLINE)

    async def until_metrics(self, text: str) -> None:
        """Until a scrape contains `text`."""

        async def told() -> bool:
            return text in (await self.get("/metrics")).text

        await eventually(told, DEADLINE, f"a scrape contains {text!r}")

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), DEADLINE)


Start = Callable[..., Awaitable[Worker]]


async def running(
    worker: Worker,
    stream: Stream,
    task_id: str = "n",
    *,
    source: stage_pb2.Descriptor | None = None,
    **command: object,
) -> None:
    """A denoising that is in its first step, and waits there: what comes later is not in this step's forward."""
    source = source or await stream.encoded(f"input of {task_id}")
    worker.model.hold = True
    await stream.execute(DENOISE, task_id, source=source, **command)
    await stream.step(task_id, 0)
    await eventually(lambda: worker.model.held, DEADLINE, f"{task_id} is in its first step")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Real models compute with one, as the processes of tests do: with more, sums may differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
async def router() -> AsyncIterator[ScriptedRouter]:
    router = ScriptedRouter()
    await router.start()
    yield router
    await router.stop()


@pytest.fixture
async def start(router: ScriptedRouter) -> AsyncIterator[Start]:
    """Starts workers: `await start("encoder", "denoiser", pool_size=…)`; a `model` in place of a scripted one."""
    workers: list[Worker] = []

    async def start(*roles: str, model: StageModel | None = None, **given: object) -> Worker:
        values = {
            "roles": [Role(role) for role in roles or ("encoder", "denoiser", "decoder")],
            "pod_name": f"{'-'.join(roles) or 'whole'}-{len(workers)}",
            "router": f"127.0.0.1:{router.port}",
            "backend": "memory",
            "pool_size": 1 << 20,
            "generation": "g1",
            "drain_seconds": 2.0,
            **given,
        }
        settings = Settings.model_validate(values)
        model = model or ScriptedModel(settings.stages)
        stop, ports = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(settings, model=model, stop=stop, ready=ports.set_result))
        await asyncio.wait({task, ports}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        worker = Worker(settings, model, router, stop, ports.result(), task)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if isinstance(worker.model, ScriptedModel):
            worker.model.let_go(1000)
        worker.task.cancel()
    # At once: each takes a moment to end.
    await asyncio.gather(*(worker.task for worker in workers), return_exceptions=True)
