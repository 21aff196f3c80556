"""The worker process: settings, model, pool, stream to the router, probes, signals."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final, NoReturn

import grpc
import structlog
import uvloop

from diffusion_worker.downloading import Downloading
from diffusion_worker.health import Health, serve_health
from diffusion_worker.link.artifacts import Artifacts
from diffusion_worker.link.leaving import break_off, drain
from diffusion_worker.link.loading import tell_loading
from diffusion_worker.link.probing import Probing
from diffusion_worker.link.stream import Incompatible, RouterStream
from diffusion_worker.link.worker import Worker
from diffusion_worker.loading import Loaded, adopt, load
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.model.types import DownloadFailed, StageModel, UnsupportedModel
from diffusion_worker.settings import Settings
from diffusion_worker.transport import EngineInitFailed, Proof, Transport, open_proven, open_transport
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.hub import Hub, Ticked
from diffusion_worker.work.paces import Paces
from diffusion_worker.work.runner import Runner
from diffusion_worker.work.watch import Bounds, Doing, Habits, Stall, Underway
from diffusion_worker.work.watchdog import LastResort, Watchdog, say
from diffusionpipeline.process.channels import WORKER_CHANNEL
from diffusionpipeline.process.logs import configure
from diffusionpipeline.process.serving import Ports
from diffusionpipeline.words import (
    EXIT_DOWNLOAD,
    EXIT_FAILED,
    EXIT_INCOMPATIBLE,
    EXIT_MODEL,
    EXIT_STALLED,
    EXIT_TRANSPORT,
    proved_text,
)

CLOSE_SECONDS: Final = 5.0
WATCH_SECONDS: Final = 1.0
_LOADING: Final = "loading the model"

log = structlog.get_logger()


class TransportFailed(Exception):
    """The pool can't be served any more."""


class Stalled(Exception):
    """Something of this worker stands still."""

    def __init__(self, stall: Stall) -> None:
        super().__init__(str(stall))
        self.stall = stall


async def serve(
    settings: Settings,
    *,
    model: StageModel | None = None,
    stop: asyncio.Event | None = None,
    ready: Callable[[Ports], None] | None = None,
    last_resort: LastResort | None = None,
) -> None:
    """Run a worker until `stop` is set and it has drained. `model`: one that is loaded already.

    `ready` is called with the ports of the probes once these are served, before the model is loaded; `last_resort` ends
    a worker that stands still and can't end by itself.
    Raises UnsupportedModel, DownloadFailed, Incompatible (the router can't use this worker), EngineInitFailed,
    TransportFailed, Stalled, OSError (a port that is taken).
    """
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        life = _Lifecycle(settings, stack, last_resort)
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
            ends: list[asyncio.Future[Any]] = [stopping, working, life.stalled]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not life.registers:
                # Nothing was ever taken on: there is nothing to drain.
                if life.stalled.done():
                    raise Stalled(life.stalled.result())
                return
            await working
        finally:
            working.cancel()
            await asyncio.wait({working})


class _Lifecycle:
    """What the probes look at, and the order in which a worker comes up and leaves."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, last_resort: LastResort | None) -> None:
        self._settings = settings
        self._stack = stack
        self.health = Health(self._not_alive, self._not_ready)
        loop, batching = asyncio.get_running_loop(), settings.batching
        habits = Habits(Bounds(settings.stall_multiple, settings.stall_seconds, settings.stall_first_seconds))
        hub: Hub[Any] = Hub(
            Forwards(),
            max_tokens=batching.max_tokens,
            max_requests=batching.max_requests,
            underway=Underway(habits),
        )
        self.metrics = Metrics(settings.label, settings.stages)
        self.paces = Paces()
        self.compute = ComputeThread(loop, hub, self._forward_made)
        self.stalled: asyncio.Future[Stall] = loop.create_future()
        """What stands still, once something does."""
        watchdog = Watchdog(
            habits,
            self.compute,
            loop,
            stalled=self._found_stalled,
            standing=self.metrics.set_standing,
            last_resort=last_resort,
        )
        # Last of all, so that it also ends a worker that can't close.
        stack.callback(watchdog.stop)
        stack.callback(self.compute.stop)
        self._state = "opening the transport"
        self._downloading = Downloading(self.metrics)
        self._leaving = False
        self._announcing: set[asyncio.Task[None]] = set()
        self.registers = False

    def _forward_made(self, made: Ticked, seconds: float) -> None:
        self.metrics.forward(made.requests, seconds)
        self.paces.observe(made.shape, made.requests, seconds)

    def _found_stalled(self, stall: Stall) -> None:
        self.stalled.set_result(stall)
        self._leave(f"leaving: {stall}")

    def _not_alive(self) -> str:
        return f"stalled: {self.stalled.result()}" if self.stalled.done() else ""

    def _not_ready(self) -> str:
        progress = self._downloading.progress
        return f"{self._state}: {progress}" if self._state == _LOADING and progress else self._state

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
        opening = partial(
            open_transport,
            backend=settings.backend,
            fallback=settings.fallback,
            host=settings.host,
            pool_size=settings.pool_size,
            port_min=settings.port_min,
            port_max=settings.port_max,
            incarnation=incarnation,
            rdma_devices=settings.rdma_devices,
            huge_pages=settings.huge_pages,
            shm_key=settings.shm_key or settings.pipeline,
        )
        transport, proof = await open_proven(
            opening, protocol=settings.serves, pulls=settings.pulls, fallback=settings.fallback
        )
        self._stack.push_async_callback(_close, transport)
        self.metrics.watch(transport.pool, proof)
        log.info(
            "transport_open",
            mode=transport.mode,
            pulls=transport.pulls,
            url=transport.pool.url,
            bytes=transport.pool.size,
            pulls_from_itself=proved_text(proof.bytes_per_second, proof.seconds),
        )
        self._become(_LOADING)
        begun = time.monotonic()
        # How long that takes depends on networks and disks, and it says nothing meanwhile: no bound would be right.
        loading = Doing("load", bounded=False)
        fetch_and_load = partial(load, settings, self._downloading.told, self.metrics.download_paused)
        telling = asyncio.create_task(tell_loading(settings, self._downloading))
        try:
            loaded = await self.compute.run(loading, partial(adopt, model, settings) if model else fetch_and_load)
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        seconds = time.monotonic() - begun
        self.metrics.set_model_load(seconds)
        log.info("model_loaded", id=settings.model_id, seconds=round(seconds, 2))
        self._become("not registered with the router")
        await self._serve(loaded, transport, proof, stop)

    async def _serve(self, loaded: Loaded, transport: Transport, proof: Proof, stop: asyncio.Event) -> None:
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
        probing = Probing(transport, stream.send, self.metrics.set_peer_pull)
        worker = Worker(settings, loaded, transport, proof, runner, self.paces, probing, leave=stop.set)
        self.registers = True
        attached = asyncio.create_task(stream.run(worker))
        stopping = asyncio.create_task(stop.wait())
        faults = {asyncio.create_task(self._raise_stalled()), asyncio.create_task(_watch(transport))}
        draining: set[asyncio.Task[None]] = set()
        try:
            await _first({attached, stopping, *faults})
            self._leave("draining")
            draining = {asyncio.create_task(drain(runner, stream, worker, settings.drain_seconds))}
            await _first({*draining, *faults})
            await attached
        except (Stalled, TransportFailed) as error:
            self._leave(f"leaving: {error}")
            for given_up in draining:
                given_up.cancel()
            if isinstance(error, Stalled):
                why, stalled = error.stall.message, frozenset(error.stall.tasks)
                await break_off(runner, stream, worker, why, stalled=stalled, outputs=True)
            else:
                await break_off(runner, stream, worker, str(error), outputs=False)
            raise
        finally:
            probing.close()
            tasks = {attached, stopping, *faults, *draining}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _raise_stalled(self) -> None:
        raise Stalled(await asyncio.shield(self.stalled))

    def _leave(self, state: str) -> None:
        """From now on it is never ready again, registered or not."""
        self._leaving = True
        self._become(state)

    def _registered(self, registered: bool) -> None:
        self.metrics.set_connected(registered)
        if not self._leaving:
            self._become("" if registered else "not registered with the router")


async def _first(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Until one of them is done. Raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        await task


async def _watch(transport: Transport) -> None:
    while transport.failure is None:  # noqa: ASYNC110  # a back end may learn of it on any thread
        await asyncio.sleep(WATCH_SECONDS)
    raise TransportFailed(transport.failure)


async def _close(transport: Transport) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await transport.close()


class _ProcessEnd:
    """The last resort of a process that is a worker and nothing else."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def put_off(self) -> None:
        # A stage that keeps the interpreter's lock leaves no thread to look. This one is not Python's: it writes where
        # every thread is, and ends the process with status 1.
        faulthandler.dump_traceback_later(self._seconds, exit=True)

    def end(self, stall: Stall) -> None:
        say("worker_failed", error=str(stall))
        os._exit(EXIT_STALLED)


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
    await serve(settings, stop=stop, last_resort=_ProcessEnd(settings.stall_first_seconds))


def main(settings: Settings) -> NoReturn:
    """Run a worker until it is told to stop; ends the process."""
    configure(settings.log_format, settings.log_level)
    status = 0
    try:
        uvloop.run(_run(settings))
    except (
        UnsupportedModel,
        DownloadFailed,
        Incompatible,
        EngineInitFailed,
        TransportFailed,
        Stalled,
        OSError,
    ) as error:
        log.error("worker_failed", error=str(error))
        status = _STATUSES.get(type(error), EXIT_FAILED)
    # Native libraries may still have threads, and a stage that was given up may still compute: neither is waited for.
    os._exit(status)


_STATUSES: Final[dict[type[Exception], int]] = {
    UnsupportedModel: EXIT_MODEL,
    DownloadFailed: EXIT_DOWNLOAD,
    Incompatible: EXIT_INCOMPATIBLE,
    EngineInitFailed: EXIT_TRANSPORT,
    TransportFailed: EXIT_TRANSPORT,
    Stalled: EXIT_STALLED,
}
