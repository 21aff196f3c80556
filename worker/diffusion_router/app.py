"""The router process: settings, stores, core, servers, signals."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, NoReturn

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from diffusion_router import core
from diffusion_router.access import Files
from diffusion_router.api import create_app
from diffusion_router.api.grpc import add_services
from diffusion_router.clock import StoreClock
from diffusion_router.metrics import Metrics
from diffusion_router.peers import messages
from diffusion_router.peers.conditioning import Conditionings
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.registry import Registry
from diffusion_router.peers.sessions import Sessions
from diffusion_router.peers.tickets import Tickets
from diffusion_router.service import JobService
from diffusion_router.settings import Settings
from diffusion_router.store import ArtifactStore, JobStore, StoreError
from diffusionpipeline.process.channels import listen, router_server
from diffusionpipeline.process.descriptors import share_descriptors
from diffusionpipeline.process.logs import configure
from diffusionpipeline.process.machine import boot_id, uptime
from diffusionpipeline.process.serving import Ports, serve_http
from diffusionpipeline.v1 import peer_pb2_grpc, registry_pb2_grpc
from diffusionpipeline.words import EXIT_FAILED

_GRACE_SECONDS: Final = 5

log = structlog.get_logger()


async def serve(
    settings: Settings, *, stop: asyncio.Event, ready: Callable[[Ports], Awaitable[None]] | None = None
) -> None:
    """Runs a router until `stop` is set. Raises StoreError, OSError (a port that is taken, too few descriptors)."""
    room = share_descriptors()
    async with AsyncExitStack() as stack:
        jobs = await JobStore.open(
            settings.resolved_store_url,
            pipeline=settings.qualified_pipeline,
            retain_seconds=settings.retain_seconds,
            timeout=settings.store_timeout_seconds,
        )
        stack.push_async_callback(jobs.close)
        policy = core.Policy(
            lease=settings.lease_seconds,
            settle=settings.settle_seconds,
            scheduling=settings.scheduling,
            checkpoint=settings.checkpoint_seconds,
        )
        machine: messages.Core = core.Core(policy, epoch=secrets.token_hex(4), now=time.monotonic())
        dispatcher = Dispatcher(machine)
        stack.callback(dispatcher.close)
        metrics = Metrics()
        conditionings = Conditionings(dispatcher)
        clock = await StoreClock.open(jobs, boot=boot_id(), wall=time.time(), up=uptime())
        service = JobService(
            dispatcher,
            conditionings,
            jobs=jobs,
            artifacts=ArtifactStore.open(
                settings.resolved_artifacts_url,
                reserve=settings.disk_reserve_bytes,
                flushed=settings.durability == "flushed",
            ),
            clock=clock,
            metrics=metrics,
            max_queued=settings.max_queued_requests,
            timeout_seconds=settings.request_timeout_seconds,
        )
        tickets = Tickets(jobs.secret)
        sessions = Sessions(dispatcher, service, tickets, metrics)
        dispatcher.add_hands(sessions)
        metrics.watch(dispatcher, sessions)
        conditionings.watch(sessions)
        registry = Registry(dispatcher, sessions, settings.model_id)
        await service.start()
        stack.push_async_callback(service.stop)

        server = grpc.aio.server(options=router_server(max_connections=room.grpc))
        healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # which the stubs lack
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(sessions, server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        add_services(server, service, registry, settings.limits, Files(service, sessions, tickets))
        grpc_port = listen(server, settings.host, settings.grpc_port, flag="--grpc-port")
        await server.start()
        stack.push_async_callback(server.stop, _GRACE_SECONDS)

        app = create_app(service, registry, settings.limits, metrics=metrics.render, metrics_type=metrics.content_type)
        http_port = await stack.enter_async_context(
            serve_http(
                app,
                host=settings.host,
                port=settings.http_port,
                flag="--http-port",
                grace_seconds=_GRACE_SECONDS,
                bounds=settings.http_bounds(room.http),
            )
        )
        for name in ("", "diffusionpipeline.v1.JobService", "diffusionpipeline.v1.PeerService"):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("router_ready", http_port=http_port, grpc_port=grpc_port, pipeline=settings.pipeline)
        if ready is not None:
            await ready(Ports(http_port, grpc_port))
        await stop.wait()
        log.info("router_stopping")
        await healthy.enter_graceful_shutdown()
        dispatcher.dispatch(core.RouterStops())
        sessions.close()


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop)


def main(settings: Settings) -> NoReturn:
    """Run a router until it is told to stop; ends the process."""
    configure(settings.log_format, settings.log_level)
    status = 0
    try:
        uvloop.run(_run(settings))
    except (StoreError, OSError) as error:
        log.error("router_failed", error=str(error))
        status = EXIT_FAILED
    raise SystemExit(status)
