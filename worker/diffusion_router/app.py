"""The router process: settings, stores, core, servers, signals."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from diffusion_router import core
from diffusion_router.api import create_app
from diffusion_router.api.grpc import add_services
from diffusion_router.logs import configure
from diffusion_router.metrics import Metrics
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.registry import Registry
from diffusion_router.peers.sessions import Sessions
from diffusion_router.service import JobService
from diffusion_router.settings import Settings, read_settings
from diffusion_router.store import ArtifactStore, JobStore, StoreError
from diffusionpipeline.v1 import peer_pb2_grpc, registry_pb2_grpc

_GRACE_SECONDS: Final = 5.0
# Results travel in chunks of at most 1 MiB; everything else is far smaller.
_MAX_MESSAGE_BYTES: Final = 4 << 20
_GRPC_OPTIONS: Final = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Workers ping every 10 s; gRPC's own minimum is 5 minutes, after which it hangs up on them.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    grpc: int


async def serve(
    settings: Settings, *, stop: asyncio.Event, ready: Callable[[Ports], Awaitable[None]] | None = None
) -> None:
    """Runs a router until `stop` is set. Raises StoreError, OSError (a port that is taken)."""
    async with AsyncExitStack() as stack:
        jobs = await JobStore.open(settings.resolved_store_url, retain_seconds=settings.retain_seconds)
        stack.push_async_callback(jobs.close)
        policy = core.Policy(lease=settings.lease_seconds, settle=settings.settle_seconds)
        machine = core.Core(policy, epoch=secrets.token_hex(4), now=time.monotonic())
        dispatcher = Dispatcher(machine)
        stack.callback(dispatcher.close)
        metrics = Metrics()
        service = JobService(
            dispatcher,
            jobs=jobs,
            artifacts=ArtifactStore.open(settings.resolved_artifacts_url),
            metrics=metrics,
            max_queued=settings.max_queued_requests,
            timeout_seconds=settings.request_timeout_seconds,
            model_id=settings.model_id,
        )
        sessions = Sessions(dispatcher, service)
        dispatcher.add_hands(sessions)
        metrics.watch(dispatcher, sessions)
        await service.start(sessions)
        stack.push_async_callback(service.stop)

        server = grpc.aio.server(options=_GRPC_OPTIONS)
        healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # which the stubs lack
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(sessions, server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(Registry(dispatcher, sessions), server)
        add_services(server, service, settings.limits)
        try:
            grpc_port = server.add_insecure_port(f"{settings.host}:{settings.grpc_port}")
        except RuntimeError as error:
            text = f"--grpc-port {settings.grpc_port}: cannot listen on {settings.host} ({error}); choose a free port"
            raise OSError(text) from None
        await server.start()
        stack.push_async_callback(server.stop, _GRACE_SECONDS)

        app = create_app(service, settings.limits, metrics=metrics.render, metrics_type=metrics.content_type)
        web = _Web(app, settings)
        http_port = await web.start()
        stack.push_async_callback(web.stop)
        for name in ("", "diffusionpipeline.v1.GenerationService", "diffusionpipeline.v1.PeerService"):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("router_ready", http_port=http_port, grpc_port=grpc_port, pipeline=settings.pipeline)
        if ready is not None:
            await ready(Ports(http_port, grpc_port))
        await stop.wait()
        log.info("router_stopping")
        await healthy.enter_graceful_shutdown()
        sessions.close()


class _Web:
    """uvicorn inside a loop and with signals that are ours."""

    def __init__(self, app: Callable[..., Awaitable[None]], settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.http_port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(_GRACE_SECONDS),
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._settings = settings

    async def start(self) -> int:
        try:
            await self._server.startup()
        except SystemExit:
            text = f"--http-port {self._settings.http_port}: cannot listen on {self._settings.host}; choose a free port"
            raise OSError(text) from None
        self._ticker = asyncio.create_task(self._server.main_loop())
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._ticker
        await self._server.shutdown()


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop)


def main() -> None:
    settings = read_settings()
    configure(settings.log_format)
    try:
        import uvloop

        uvloop.run(_run(settings))
    except (StoreError, OSError) as error:
        print(f"diffusion_router: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
