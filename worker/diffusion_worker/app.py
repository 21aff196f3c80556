"""The worker process: settings, model, pool, stream to the router, probes, signals."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final, NoReturn

import grpc
import structlog
import uvloop

from diffusion_worker.health import Health, serve_health
from diffusion_worker.link.artifacts import Artifacts
from diffusion_worker.link.stream import Incompatible, RouterStream
from diffusion_worker.link.worker import Worker
from diffusion_worker.loading import Loaded, adopt, load
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.model.types import StageModel, UnsupportedModel
from diffusion_worker.settings import Settings
from diffusion_worker.transport import EngineInitFailed, Transport, open_transport
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.hub import Hub, Ticked
from diffusion_worker.work.paces import Paces
from diffusion_worker.work.runner import Runner
from diffusionpipeline.process.channels import WORKER_CHANNEL
from diffusionpipeline.process.logs import configure
from diffusionpipeline.process.serving import Ports
from diffusionpipeline.words import EXIT_FAILED, EXIT_INCOMPATIBLE, EXIT_MODEL, EXIT_TRANSPORT

CLOSE_SECONDS: Final = 5.0
BOUNDARY_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0

log = structlog.get_logger()


class TransportFailed(Exception):
    """The pool can't be served any more."""


async def serve(
    settings: Settings,
    *,
    model: StageModel | None = None,
    stop: asyncio.Event | None = None,
    ready: Callable[[Ports], None] | None = None,
) -> None:
    """Run a worker until `stop` is set and it has drained. `model`: one that is loaded already.

    `ready` is called with the ports of the probes once these are served, before the model is loaded.
    Raises UnsupportedModel, Incompatible (the router can't use this worker), EngineInitFailed, TransportFailed, OSError
    (a port that is taken).
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        life = _Lifecycle(settings, stack)
        ports = await stack.enter_async_context(
            serve_health(
                life.health,
                life.metrics,
                host=settings.health_host,
                http_port=settings.health_port,
                grpc_port=settings.grpc_health_port,
            )
        )
        await life.health.publish()
        log.info("worker_starting", pod=settings.pod_name, roles=list(settings.roles), http_port=ports.http)
        if ready is not None:
            ready(ports)
        stopping = asyncio.create_task(stop.wait())
        stack.callback(stopping.cancel)
        working = asyncio.create_task(life.work(model, stop))
        try:
            await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not life.registers:
                # Nothing was ever taken on: there is nothing to drain.
                return
            await working
        finally:
            working.cancel()
            await asyncio.wait({working})


class _Lifecycle:
    """What the probes look at, and the order in which a worker comes up and leaves."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self.health = Health(self._not_alive, self._not_ready)
        batching = settings.batching
        hub: Hub[Any] = Hub(Forwards(), max_tokens=batching.max_tokens, max_requests=batching.max_requests)
        self.metrics = Metrics(settings.label, settings.stages)
        self.paces = Paces()
        self.compute = ComputeThread(asyncio.get_running_loop(), hub, self._forward_made)
        stack.callback(self.compute.stop)
        self._state = "opening the transport"
        self._announcing: set[asyncio.Task[None]] = set()
        self.registers = False

    def _forward_made(self, made: Ticked, seconds: float) -> None:
        self.metrics.forward(made.requests, seconds)
        self.paces.observe(made.shape, made.requests, seconds)

    def _not_alive(self) -> str:
        return "" if self.compute.alive else "the compute thread ended"

    def _not_ready(self) -> str:
        return self._state

    def _become(self, state: str) -> None:
        """Why the worker is not ready; empty: it is."""
        self._state = state
        announcing = asyncio.get_running_loop().create_task(self.health.publish())
        self._announcing.add(announcing)
        announcing.add_done_callback(self._announcing.discard)

    async def work(self, model: StageModel | None, stop: asyncio.Event) -> None:
        settings = self._settings
        # First, because what it may lack (devices, ports, memory) is known in seconds, a model may load for minutes.
        incarnation = secrets.token_hex(16)
        transport = await open_transport(
            backend=settings.backend,
            protocol=settings.protocol,
            fallback=settings.fallback,
            host=settings.host,
            pool_size=settings.pool_size,
            port_min=settings.port_min,
            port_max=settings.port_max,
            incarnation=incarnation,
            rdma_devices=settings.rdma_devices,
            shm_key=settings.shm_key or settings.pipeline,
        )
        self._stack.push_async_callback(_close, transport)
        self.metrics.watch(transport.pool)
        log.info("transport_open", mode=transport.mode, url=transport.pool.url, bytes=transport.pool.size)
        self._become("loading the model")
        begun = time.monotonic()
        loaded = await self.compute.run(partial(adopt, model, settings) if model else partial(load, settings))
        seconds = time.monotonic() - begun
        self.metrics.set_model_load(seconds)
        log.info("model_loaded", id=settings.model_id, seconds=round(seconds, 2))
        self._become("not registered with the router")
        await self._serve(loaded, transport, stop)

    async def _serve(self, loaded: Loaded, transport: Transport, stop: asyncio.Event) -> None:
        settings = self._settings
        channel = grpc.aio.insecure_channel(settings.router, options=WORKER_CHANNEL)
        self._stack.push_async_callback(channel.close, None)
        stream = RouterStream(channel, self._registered)
        runner = Runner(
            model=loaded.model,
            transport=transport,
            artifacts=Artifacts(channel),
            compute=self.compute,
            metrics=self.metrics,
            send=stream.send,
            generation=settings.generation,
            batching=settings.batching,
            max_input_bytes=settings.max_input_bytes,
            max_input_pixels=settings.max_input_pixels,
        )
        worker = Worker(settings, loaded, transport, runner, self.paces, leave=stop.set)
        self.registers = True
        attached = asyncio.create_task(stream.run(worker))
        tasks = {attached, asyncio.create_task(stop.wait()), asyncio.create_task(_watch(transport))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            self._become("draining")
            await _drain(runner, stream, worker, settings.drain_seconds)
            await attached
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _registered(self, registered: bool) -> None:
        self.metrics.set_connected(registered)
        if self._state != "draining":
            self._become("" if registered else "not registered with the router")


async def _drain(runner: Runner, stream: RouterStream, worker: Worker, seconds: float) -> None:
    """Finish what runs, hand back the rest, keep outputs until they are released; all of it within `seconds`."""
    log.info("draining", seconds=seconds)
    runner.drain()
    stream.beat(worker)
    if not await runner.holdings.empty(outputs=True, timeout=seconds):
        runner.hand_back()
        if not await runner.holdings.empty(outputs=False, timeout=BOUNDARY_SECONDS):
            log.warning("drained_while_computing")
    await stream.close()
    log.info("drained")


async def _watch(transport: Transport) -> None:
    while transport.failure is None:  # noqa: ASYNC110  # a back end may learn of it on any thread
        await asyncio.sleep(WATCH_SECONDS)
    raise TransportFailed(transport.failure)


async def _close(transport: Transport) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await transport.close()


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stopped_without_draining")
            os._exit(EXIT_FAILED)
        stop.set()

    # As process 1 of a container, Python ignores SIGTERM unless it has a handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await serve(settings, stop=stop)


def main(settings: Settings) -> NoReturn:
    """Run a worker until it is told to stop; ends the process."""
    configure(settings.log_format, settings.log_level)
    status = 0
    try:
        uvloop.run(_run(settings))
    except (UnsupportedModel, Incompatible, EngineInitFailed, TransportFailed, OSError) as error:
        log.error("worker_failed", error=str(error))
        status = _STATUSES.get(type(error), EXIT_FAILED)
    # Native libraries may still have threads, and a stage that was given up may still compute: neither is waited for.
    os._exit(status)


_STATUSES: Final[dict[type[Exception], int]] = {
    UnsupportedModel: EXIT_MODEL,
    Incompatible: EXIT_INCOMPATIBLE,
    EngineInitFailed: EXIT_TRANSPORT,
    TransportFailed: EXIT_TRANSPORT,
}
