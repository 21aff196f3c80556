"""Segments of shared memory: who may read them, and what is left of the dead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from contract.transport.peers import StartPeer, pulled, settings
from contract.transport.producer import Producer, content
from diffusion_worker.transport import EngineInitFailed, OutOfRange, Transport, open_transport
from diffusion_worker.transport.shm import FOLDER, folder_of, remove_orphans

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
    path = segment(transport.pool.url)
    assert path.exists()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await transport.close()
    assert not segment(transport.pool.url).exists()


async def test_a_pool_larger_than_the_memory_is_refused_with_a_remedy() -> None:
    with pytest.raises(EngineInitFailed, match=r"emptyDir.*poolSize"):
        await open_transport(**settings("shm", 1 << 50), incarnation="a")


async def test_two_pipelines_of_one_user_do_not_meet(start_peer: StartPeer, consumer: Transport) -> None:
    near: Producer = Producer(await open_transport(**settings("shm", 1 << 20), incarnation="a"))
    other = await open_transport(**settings("shm", 1 << 20), incarnation="b", shm_key="another pipeline")
    far = Producer(other)
    assert segment(far.transport.pool.url).parent != segment(consumer.pool.url).parent
    with pytest.raises(OutOfRange, match="another pipeline's"):
        await pulled(consumer, far.publish(1, 100))
    assert await pulled(consumer, near.publish(2, 100)) == content(2, 100)
    # Nor does one sweep what is the other's.
    remove_orphans()
    assert segment(other.pool.url).exists()
    for producer in (near, far):
        await producer.transport.close()
    assert not folder_of("another pipeline").exists()


@pytest.mark.parametrize("taken", ["open to all", "a link", "a file"])
async def test_a_folder_that_somebody_else_may_enter_is_not_used(taken: str, tmp_path: Path) -> None:
    folder = folder_of(f"test {taken} {os.getpid()}")
    match taken:
        case "open to all":
            folder.mkdir()
            folder.chmod(0o777)
            (folder / "kept").mkdir()  # else it is swept away, as it is empty
        case "a link":
            folder.symlink_to(tmp_path)
        case _:
            folder.touch()
    try:
        with pytest.raises(EngineInitFailed, match="not a folder that only this worker's user"):
            await open_transport(**settings("shm", 4096), incarnation="a", shm_key=f"test {taken} {os.getpid()}")
    finally:
        if taken == "open to all":
            shutil.rmtree(folder)
        else:
            folder.unlink()


def segment(url: str) -> Path:
    return FOLDER / url.removeprefix("shm://")
