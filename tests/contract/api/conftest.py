from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from openai import AsyncOpenAI

from contract.api.artist import Artist
from contract.router.conftest import Router, Start, start_router

__all__ = ["start_router"]


@pytest.fixture
async def router(start_router: Start) -> Router:
    """The scripted workers send no heartbeats: their lease is longer than any test here."""
    return await start_router(lease_seconds=300.0)


@pytest.fixture
async def artist(router: Router) -> AsyncIterator[Artist]:
    """A worker of a model that makes pictures."""
    worker = Artist(router.target)
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


@pytest.fixture
async def film_maker(router: Router) -> AsyncIterator[Artist]:
    """A worker of a model that makes videos."""
    worker = Artist(router.target, output="video")
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


@pytest.fixture
async def client(router: Router) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own, as a user would set it up; it repeats nothing by itself."""
    async with AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=20) as opened:
        yield opened


@pytest.fixture
async def http(router: Router) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as opened:
        yield opened
