"""HTTP by uvicorn inside a loop, and with signals, that are the program's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a process listens."""

    http: int
    grpc: int


@asynccontextmanager
async def serve_http(
    application: Callable[..., Awaitable[None]],
    *,
    host: str,
    port: int,
    flag: str,
    grace_seconds: int,
    max_connections: int | None = None,
    keep_alive_seconds: int = 5,
) -> AsyncIterator[int]:
    """Serve until the context is left; port 0 takes a free one. Gives the port.

    Raises OSError, which names the flag, if the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"{flag} {port}: cannot listen on {host} ({error}); choose a free port") from None
    server = _Server(
        uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            limit_concurrency=max_connections,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=grace_seconds,
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
