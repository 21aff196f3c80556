"""Probes and metrics: one small HTTP server, and grpc.health.v1 for those who probe by gRPC.

Alive is not ready: while the model loads, or the router is away, a worker is alive and must not be restarted.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # type: ignore[attr-defined]  # its exports are dynamic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from diffusion_worker.metrics import Metrics

SERVICE: Final = "diffusionpipeline.v1.PeerService"
MAX_CONNECTIONS: Final = 32
GRACE_SECONDS: Final = 1


@dataclass
class Health:
    """What keeps the worker from being alive, or ready, in words. Empty means that it is."""

    not_alive: Callable[[], str]
    not_ready: Callable[[], str]
    servicer: grpc_health.HealthServicer = field(default_factory=grpc_health.HealthServicer)

    async def publish(self) -> None:
        """Tell those who watch by gRPC. To be called after each change."""
        for service, problem in (("", self.not_alive()), (SERVICE, self.not_alive() or self.not_ready())):
            status = health_pb2.HealthCheckResponse.NOT_SERVING if problem else health_pb2.HealthCheckResponse.SERVING
            await self.servicer.set(service, status)


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    grpc: int


@asynccontextmanager
async def serve_health(
    health: Health, metrics: Metrics, *, host: str, http_port: int, grpc_port: int
) -> AsyncIterator[Ports]:
    """Serve /healthz, /readyz, /metrics and grpc.health.v1 until the context is left; port 0 takes a free one.

    Raises OSError, which names the flag, if a port is taken.
    """
    async with AsyncExitStack() as stack:
        server = grpc.aio.server(maximum_concurrent_rpcs=MAX_CONNECTIONS, options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
        address = f"[{host}]" if ":" in host else host
        try:
            bound = server.add_insecure_port(f"{address}:{grpc_port}")
        except RuntimeError:
            raise OSError(f"--grpc-health-port {grpc_port}: cannot listen on {host}; choose a free port") from None
        await server.start()
        stack.push_async_callback(server.stop, GRACE_SECONDS)
        try:
            listener = socket.create_server((host, http_port), family=_family(host))
        except OSError as error:
            raise OSError(f"--health-port {http_port}: cannot listen on {host} ({error}); choose a free port") from None
        web = _Web(_application(health, metrics))
        serving = asyncio.create_task(web.serve([listener]))
        try:
            yield Ports(listener.getsockname()[1], bound)
        finally:
            web.should_exit = True
            await serving


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _application(health: Health, metrics: Metrics) -> Starlette:
    async def alive(_request: Request) -> Response:
        return _answer(health.not_alive())

    async def ready(_request: Request) -> Response:
        return _answer(health.not_alive() or health.not_ready())

    async def scrape(_request: Request) -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    return Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", scrape)])


def _answer(problem: str) -> Response:
    return PlainTextResponse(f"{problem or 'ok'}\n", status_code=503 if problem else 200)


class _Web(uvicorn.Server):
    """uvicorn inside a loop and with signals that are ours."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="off",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
