"""/healthz, /readyz and /metrics.

Alive means that the loops turn: every watch has heard of the server, or tried again, lately; no reconcile hangs and no
key waits for ever. An API server that is down makes nobody unhealthy, as a restart would not bring it back. Ready
means that everything was listed once, or that this process stands by for the one that leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from diffusion_operator.metrics import Metrics
from diffusionpipeline.process.addresses import listener

STUCK_SECONDS: Final = 180.0
STALLED_SECONDS: Final = 300.0


@dataclass
class Health:
    """Each check says in words what is wrong; an empty text is well."""

    alive: list[Callable[[], str]] = field(default_factory=list)
    ready: list[Callable[[], str]] = field(default_factory=list)


@asynccontextmanager
async def serve(health: Health, metrics: Metrics, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the context is left; gives the port. Raises OSError, which names the flag, if it is taken."""

    async def alive(_request: web.Request) -> web.Response:
        return _answer(health.alive)

    async def ready(_request: web.Request) -> web.Response:
        return _answer([*health.alive, *health.ready])

    async def scrape(_request: web.Request) -> web.Response:
        # A thousand pipelines have thirty thousand series: the loop has better things to do meanwhile.
        text = await asyncio.to_thread(metrics.render)
        return web.Response(body=text, headers={"Content-Type": metrics.content_type})

    application = web.Application()
    application.add_routes([web.get("/healthz", alive), web.get("/readyz", ready), web.get("/metrics", scrape)])
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            listening = listener(host, port)
        except OSError as error:
            raise OSError(f"--http-port {port}: cannot listen on {host} ({error}); choose a free port") from None
        await web.SockSite(runner, listening).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answer(checks: list[Callable[[], str]]) -> web.Response:
    problems = [problem for check in checks if (problem := check())]
    return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)
