"""The worker process: settings, probes, signals; the transport is opened while torch is imported, then it serves."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import structlog
import uvloop

from diffusion_worker.downloading import Downloading
from diffusion_worker.ends import FORESEEN, Stalled, status_of
from diffusion_worker.health import serve_health
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.types import StageModel
from diffusion_worker.settings import Settings
from diffusion_worker.standing import Standing
from diffusion_worker.transport import Proof, Transport, open_proven, open_transport
from diffusion_worker.work.last_resort import LastResort, say
from diffusion_worker.work.watch import Stall
from diffusionpipeline.process.logs import configure
from diffusionpipeline.process.serving import Ports
from diffusionpipeline.words import EXIT_FAILED, EXIT_STALLED, proved_text

if TYPE_CHECKING:
    from diffusion_worker.serving import Serving

CLOSE_SECONDS: Final = 5.0

log = structlog.get_logger()


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
    metrics = Metrics(settings.label, settings.stages)
    downloading = Downloading(metrics)
    standing = Standing(downloading)
    # The watchdog stops last of all, so that it also ends a worker that can't close.
    async with AsyncExitStack() as watched, AsyncExitStack() as stack:
        ports = await stack.enter_async_context(
            serve_health(
                standing.health,
                metrics,
                host=settings.health_host,
                http_port=settings.health_port,
                grpc_port=settings.grpc_health_port,
            )
        )
        await standing.health.publish()
        log.info("worker_starting", pod=settings.pod_name, roles=list(settings.roles), http_port=ports.http)
        if ready is not None:
            ready(ports)

        async def work() -> None:
            # A task would begin only once the pool is there: making it keeps the loop.
            importing = asyncio.get_running_loop().run_in_executor(
                None, _import_serving, model is None, last_resort is not None, settings.has_adapters
            )
            transport, proof = await _open(settings, importing)
            stack.push_async_callback(_close, transport)
            serving = importing.result()(settings, standing, metrics, downloading, last_resort)
            watched.callback(serving.stop)
            metrics.watch(transport.pool, proof)
            await serving.serve(await serving.load(model), transport, proof, stop)

        stopping = asyncio.create_task(stop.wait())
        stack.callback(stopping.cancel)
        working = asyncio.create_task(work())
        try:
            ends: list[asyncio.Future[Any]] = [stopping, working, standing.stalled]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and not standing.takes_work:
                # Nothing was ever taken on: there is nothing to drain.
                if standing.stalled.done():
                    raise Stalled(standing.stalled.result())
                return
            await working
        finally:
            working.cancel()
            await asyncio.wait({working})


def _import_serving(loads: bool, alone: bool, adapts: bool) -> type[Serving]:
    """All that takes seconds of computing to import, what loading a model needs included, or adapters if it `adapts`.

    `alone`: this process is a worker and nothing else.
    """
    if alone and not adapts:
        # Where there is PEFT, diffusers imports it, which takes a tenth of all this. None is Python's word for a module
        # that can't be imported, and diffusers then does without.
        sys.modules.setdefault("peft", cast(ModuleType, None))
    # What is imported stays: to look for garbage in it takes a sixth of this time, and of each later look.
    if alone:
        gc.disable()
    try:
        from diffusion_worker.serving import Serving

        if loads:
            import diffusion_worker.model.modular  # noqa: F401
    finally:
        if alone:
            gc.freeze()
            gc.enable()
    return Serving


async def _open(settings: Settings, importing: asyncio.Future[Any]) -> tuple[Transport, Proof]:
    # Before the model is loaded: what it may lack (devices, ports, memory) is known in seconds, loading takes minutes.
    opening = partial(
        open_transport,
        backend=settings.backend,
        fallback=settings.fallback,
        host=settings.host,
        pool_size=settings.pool_size,
        port_min=settings.port_min,
        port_max=settings.port_max,
        incarnation=secrets.token_hex(16),
        rdma_devices=settings.rdma_devices,
        huge_pages=settings.huge_pages,
        shm_key=settings.shm_key or settings.pipeline,
    )
    transport, proof = await open_proven(
        opening, protocol=settings.serves, pulls=settings.pulls, fallback=settings.fallback, quiet=importing
    )
    log.info(
        "transport_open",
        mode=transport.mode,
        pulls=transport.pulls,
        url=transport.pool.url,
        bytes=transport.pool.size,
        pulls_from_itself=proved_text(proof.bytes_per_second, proof.seconds),
    )
    return transport, proof


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
    except FORESEEN as error:
        log.error("worker_failed", error=str(error))
        status = status_of(error)
    # Native libraries may still have threads, and a stage that was given up may still compute: neither is waited for.
    os._exit(status)
