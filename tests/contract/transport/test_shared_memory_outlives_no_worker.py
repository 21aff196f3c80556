"""Segments of shared memory: who may read them, and what is left of the dead."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.transport.peers import StartPeer, pulled, settings
from contract.transport.producer import content
from diffusion_worker.transport import EngineInitFailed, Transport, open_transport
from diffusion_worker.transport.shm import FOLDER, remove_orphans

pytestmark = pytest.mark.backends("shm")


async def test_what_a_killed_worker_leaves_behind_is_removed_and_the_living_keep_theirs(
    start_peer: StartPeer, consumer: Transport
) -> None:
    dead, living = await start_peer(), await start_peer()
    path, descriptor = segment(dead.publish(1, 100).url), living.publish(2, 100)
    assert path.stat().st_mode & 0o777 == 0o600
    await dead.kill()
    assert path.exists()
    remove_orphans()
    assert not path.exists()
    assert segment(consumer.pool.url).exists()
    assert await pulled(consumer, descriptor) == content(2, 100)


async def test_a_closed_pool_leaves_nothing_behind() -> None:
    transport = await open_transport(**settings("shm", 4096), incarnation="a")
    assert segment(transport.pool.url).exists()
    await transport.close()
    assert not segment(transport.pool.url).exists()


async def test_a_pool_larger_than_the_memory_is_refused_with_a_remedy() -> None:
    with pytest.raises(EngineInitFailed, match=r"emptyDir.*poolSize"):
        await open_transport(**settings("shm", 1 << 50), incarnation="a")


def segment(url: str) -> Path:
    return FOLDER / url.removeprefix("shm://")
