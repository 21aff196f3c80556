"""From an open transport to a worker that the router gives work to, and from there to its end.

With this module come torch and all else that computing needs, which takes seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import grpc
import structlog

from diffusion_worker.downloading import Downloading
from diffusion_worker.ends import Stalled, TransportFailed
from diffusion_worker.link.artifacts import Artifacts
from diffusion_worker.link.leaving import break_off, drain
from diffusion_worker.link.loading import tell_loading
from diffusion_worker.link.offering import Offering
from diffusion_worker.link.probing import Probing
from diffusion_worker.link.stream import RouterStream
from diffusion_worker.link.worker import Worker
from diffusion_worker.loading import Loaded, adopt, load
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.model.types import StageModel
from diffusion_worker.settings import Settings
from diffusion_worker.standing import LOADING, UNREGISTERED, Standing
from diffusion_worker.transport import Proof, Transport
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.hub import Hub, Ticked
from diffusion_worker.work.last_resort import LastResort
from diffusion_worker.work.paces import Paces
from diffusion_worker.work.runner import Runner
from diffusion_worker.work.watch import Bounds, Doing, Habits, Underway
from diffusion_worker.work.watchdog import Watchdog
from diffusionpipeline.process.channels import WORKER_CHANNEL

WATCH_SECONDS: Final = 1.0

log = structlog.get_logger()


class Serving:
    """The thread that computes and the one that watches it run from the beginning."""

    def __init__(
        self,
        settings: Settings,
        standing: Standing,
        metrics: Metrics,
        downloading: Downloading,
        last_resort: LastResort | None,
    ) -> None:
        self._settings = settings
        self._standing = standing
        self._metrics = metrics
        self._downloading = downloading
        loop, batching = asyncio.get_running_loop(), settings.batching
        habits = Habits(Bounds(settings.stall_multiple, settings.stall_seconds, settings.stall_first_seconds))
        hub: Hub[Any] = Hub(
            Forwards(),
            max_tokens=batching.max_tokens,
            max_requests=batching.max_requests,
            underway=Underway(habits),
        )
        self._paces = Paces()
        self._compute = ComputeThread(loop, hub, self._forward_made)
        self._watchdog = Watchdog(
            habits,
            self._compute,
            loop,
            stalled=standing.stall,
            standing=metrics.set_standing,
            last_resort=last_resort,
        )

    def stop(self) -> None:
        """Compute and watch no more. Does not wait."""
        self._compute.stop()
        self._watchdog.stop()

    def _forward_made(self, made: Ticked, seconds: float) -> None:
        self._metrics.forward(made.requests, seconds)
        self._paces.observe(made.shape, made.requests, seconds)

    async def load(self, model: StageModel | None) -> Loaded:
        """`model`: one that is loaded already."""
        settings = self._settings
        self._standing.become(LOADING)
        begun = time.monotonic()
        # How long that takes depends on networks and disks, and it says nothing meanwhile: no bound would be right.
        loading = Doing("load", bounded=False)
        fetch_and_load = partial(load, settings, self._downloading.told, self._metrics.download_paused)
        telling = asyncio.create_task(tell_loading(settings, self._downloading))
        try:
            loaded = await self._compute.run(loading, partial(adopt, model, settings) if model else fetch_and_load)
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        seconds = time.monotonic() - begun
        self._metrics.set_model_load(seconds)
        log.info("model_loaded", id=settings.model_id, seconds=round(seconds, 2))
        self._standing.become(UNREGISTERED)
        return loaded

    async def serve(self, loaded: Loaded, transport: Transport, proof: Proof, stop: asyncio.Event) -> None:
        """Until `stop` is set and it has drained."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            channel = grpc.aio.insecure_channel(settings.router, options=WORKER_CHANNEL)
            stack.push_async_callback(channel.close, None)
            stream = RouterStream(channel, self._registered)
            runner = Runner(
                model=loaded.model,
                transport=transport,
                artifacts=Artifacts(channel),
                compute=self._compute,
                metrics=self._metrics,
                send=stream.send,
                generation=settings.generation,
                batching=settings.batching,
                max_input_bytes=settings.max_input_bytes,
                max_input_pixels=settings.max_input_pixels,
            )
            probing = Probing(transport, stream.send, self._metrics.set_peer_pull)
            stack.callback(probing.close)
            offering = Offering(
                loaded.model,
                control_nets=[one.name for one in settings.control_nets],
                ip_adapters=[one.name for one in settings.ip_adapters],
            )
            await offering.look()
            looking = asyncio.create_task(offering.keep())
            stack.callback(looking.cancel)
            worker = Worker(settings, loaded, transport, proof, runner, self._paces, probing, offering, leave=stop.set)
            self._standing.takes_work = True
            await self._attend(stream, worker, runner, transport, stop)

    async def _attend(
        self, stream: RouterStream, worker: Worker, runner: Runner, transport: Transport, stop: asyncio.Event
    ) -> None:
        attached = asyncio.create_task(stream.run(worker))
        stopping = asyncio.create_task(stop.wait())
        faults = {asyncio.create_task(self._raise_stalled()), asyncio.create_task(_watch(transport))}
        draining: set[asyncio.Task[None]] = set()
        try:
            await _first({attached, stopping, *faults})
            self._standing.leave("draining")
            draining = {asyncio.create_task(drain(runner, stream, worker, self._settings.drain_seconds))}
            await _first({*draining, *faults})
            await attached
        except (Stalled, TransportFailed) as error:
            self._standing.leave(f"leaving: {error}")
            for given_up in draining:
                given_up.cancel()
            if isinstance(error, Stalled):
                why, stalled = error.stall.message, frozenset(error.stall.tasks)
                await break_off(runner, stream, worker, why, stalled=stalled, outputs=True)
            else:
                await break_off(runner, stream, worker, str(error), outputs=False)
            raise
        finally:
            tasks = {attached, stopping, *faults, *draining}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _raise_stalled(self) -> None:
        raise Stalled(await asyncio.shield(self._standing.stalled))

    def _registered(self, registered: bool) -> None:
        self._metrics.set_connected(registered)
        self._standing.registered(registered)


async def _first(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Until one of them is done. Raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        await task


async def _watch(transport: Transport) -> None:
    while transport.failure is None:  # noqa: ASYNC110  # a back end may learn of it on any thread
        await asyncio.sleep(WATCH_SECONDS)
    raise TransportFailed(transport.failure)
