"""Probes and metrics: one small HTTP server, and grpc.health.v1 for those who probe by gRPC.

Alive is not ready: while the model loads, or the router is away, a worker is alive and must not be restarted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # type: ignore[attr-defined]  # its exports are dynamic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from diffusion_worker.metrics import Metrics
from diffusionpipeline.process.channels import PROBES_SERVER, listen
from diffusionpipeline.process.connections import HttpBounds
from diffusionpipeline.process.serving import Ports, serve_http

SERVICE: Final = "diffusionpipeline.v1.PeerService"
MAX_REQUESTS: Final = 32
# Of those: who asks once must find room however many watch.
MAX_WATCHERS: Final = 16
GRACE_SECONDS: Final = 1

Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class _Servicer(grpc_health.HealthServicer):
    def __init__(self) -> None:
        super().__init__()
        self._watchers = 0

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802  # as gRPC names it
        if self._watchers >= MAX_WATCHERS:
            text = f"{MAX_WATCHERS} others watch already; ask with Check"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watchers -= 1


@dataclass
class Health:
    """What keeps the worker from being alive, or ready, in words. Empty means that it is."""

    not_alive: Callable[[], str]
    not_ready: Callable[[], str]
    servicer: _Servicer = field(default_factory=_Servicer)

    async def publish(self) -> None:
        """Tell those who watch by gRPC. To be called after each change."""
        for service, problem in (("", self.not_alive()), (SERVICE, self.not_alive() or self.not_ready())):
            status = health_pb2.HealthCheckResponse.NOT_SERVING if problem else health_pb2.HealthCheckResponse.SERVING
            await self.servicer.set(service, status)


@asynccontextmanager
async def serve_health(
    health: Health, metrics: Metrics, *, host: str, http_port: int, grpc_port: int
) -> AsyncIterator[Ports]:
    """Serve /healthz, /readyz, /metrics and grpc.health.v1 until the context is left; port 0 takes a free one.

    Raises OSError, which names the flag, if a port is taken.
    """
    async with AsyncExitStack() as stack:
        server = grpc.aio.server(maximum_concurrent_rpcs=MAX_REQUESTS, options=PROBES_SERVER)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
        bound = listen(server, host, grpc_port, flag="--grpc-health-port")
        await server.start()
        stack.push_async_callback(server.stop, GRACE_SECONDS)
        http = await stack.enter_async_context(
            serve_http(
                _application(health, metrics),
                host=host,
                port=http_port,
                flag="--health-port",
                grace_seconds=GRACE_SECONDS,
                bounds=HttpBounds(max_connections=MAX_REQUESTS),
            )
        )
        yield Ports(http, bound)


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
