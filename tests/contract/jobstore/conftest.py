from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from diffusion_router.store import JobStore

# One more database: its name here, and how an empty one comes to be.
DATABASES: dict[str, Callable[[Path], str]] = {"sqlite": lambda folder: f"sqlite:///{folder / 'jobs.db'}"}


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    return DATABASES[request.param](tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[JobStore]:
    opened = await JobStore.open(url, retain_seconds=100.0)
    yield opened
    await opened.close()
