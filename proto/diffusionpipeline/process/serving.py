"""HTTP by uvicorn inside a loop, with signals that are the program's own, and bounds that uvicorn lacks."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import uvicorn

from diffusionpipeline.process.addresses import listener
from diffusionpipeline.process.connections import BoundedConfig, Connections, HttpBounds
from diffusionpipeline.process.refusals import error_body

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
# uvicorn's own: its header of the date is of every tenth.
_TICK_SECONDS: Final = 0.1
_TICKS_PER_LOOK: Final = 10

Application = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a process listens."""

    http: int
    grpc: int


@asynccontextmanager
async def serve_http(
    application: Application, *, host: str, port: int, flag: str, grace_seconds: int, bounds: HttpBounds
) -> AsyncIterator[int]:
    """Serve until the context is left; port 0 takes a free one. Gives the port.

    Raises OSError, which names the flag, if the port is taken.
    """
    try:
        listening = listener(host, port)
    except OSError as error:
        raise OSError(f"{flag} {port}: cannot listen on {host} ({error}); choose a free port") from None
    _notice_who_is_gone(listening, bounds.idle_seconds)
    connections = Connections(bounds)
    config = BoundedConfig(
        _Gate(application, connections),
        connections,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=grace_seconds,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.leave()
        await serving


def _notice_who_is_gone(listening: socket.socket, seconds: float) -> None:
    """Connections, which take this from the listener, end when nothing comes back for what is sent on them."""
    whole = math.ceil(seconds)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, whole)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, whole * 1000)


class _Gate:
    """ASGI: only so many requests at once. Probes are answered all the same."""

    def __init__(self, application: Application, connections: Connections) -> None:
        self._application = application
        self._connections = connections
        self._most = connections.bounds.max_connections
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._application(scope, receive, send)
            return
        if self._under_way >= self._most:
            await self._refuse(send)
            return
        self._under_way += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _refuse(self, send: Any) -> None:
        self._connections.refused("too_many_connections")
        text = f"All of the {self._most} connections for requests are in use"
        body = error_body(503, text, code="too_many_connections")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"1"),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    config: BoundedConfig

    def __init__(self, config: BoundedConfig) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """As uvicorn's own, which learns only at its next tick that it is to end."""
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _TICK_SECONDS)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_LOOK == 0:
            self.config.connections.look_after()
        return await super().on_tick(counter)
