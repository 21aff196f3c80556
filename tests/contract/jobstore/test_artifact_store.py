"""What any artifact store must do, whichever storage it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from diffusion_router.store import ArtifactNotFound, ArtifactStore, InvalidKey, StoreError

STORAGES: dict[str, Callable[[Path], str]] = {
    "path": lambda folder: str(folder / "artifacts"),
    "file url": lambda folder: f"file://{folder}/with%20space",
    "memory": lambda _folder: "memory:///",
}


@pytest.fixture(params=STORAGES)
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(STORAGES[request.param](tmp_path))


async def in_chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def content(store: ArtifactStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in await store.get(key)])


async def test_a_file_is_read_back_as_it_was_written(artifacts: ArtifactStore) -> None:
    await artifacts.put("jobs/a/0.png", b"picture")
    assert await content(artifacts, "jobs/a/0.png") == await artifacts.read("jobs/a/0.png") == b"picture"
    assert (await artifacts.open_artifact("jobs/a/0.png")).size == 7


async def test_a_large_file_goes_in_and_out_in_chunks(artifacts: ArtifactStore) -> None:
    parts = [bytes([number]) * 900_000 for number in range(20)]
    await artifacts.put("jobs/a/0.mp4", in_chunks(*parts))
    found = await artifacts.open_artifact("jobs/a/0.mp4")
    assert found.size == 18_000_000
    assert b"".join([chunk async for chunk in found.chunks]) == b"".join(parts)


async def test_an_empty_file_is_a_file(artifacts: ArtifactStore) -> None:
    await artifacts.put("inputs/a", b"")
    assert (await artifacts.open_artifact("inputs/a")).size == 0
    assert await content(artifacts, "inputs/a") == b""


async def test_a_file_is_replaced_whole(artifacts: ArtifactStore) -> None:
    await artifacts.put("jobs/a/0.png", b"a long first version")
    await artifacts.put("jobs/a/0.png", b"second")
    assert await artifacts.read("jobs/a/0.png") == b"second"


async def test_an_upload_that_breaks_off_leaves_the_file_that_was_there(artifacts: ArtifactStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 6_000_000
        raise ConnectionError("the worker is gone")

    await artifacts.put("jobs/a/0.png", b"first")
    for key in ("jobs/a/0.png", "jobs/a/1.png"):
        with pytest.raises(ConnectionError, match="the worker is gone"):
            await artifacts.put(key, broken())
    assert await artifacts.read("jobs/a/0.png") == b"first"
    with pytest.raises(ArtifactNotFound):
        await artifacts.open_artifact("jobs/a/1.png")


async def test_deleting_a_jobs_files_leaves_its_neighbours(artifacts: ArtifactStore) -> None:
    for key in ("jobs/a/0.png", "jobs/a/1.png", "jobs/ab/0.png", "inputs/a"):
        await artifacts.put(key, b"x")
    assert await artifacts.delete_prefix("jobs/a/") == 2
    assert await artifacts.delete_prefix("jobs/a/") == 0
    assert await artifacts.read("jobs/ab/0.png") == await artifacts.read("inputs/a") == b"x"


async def test_deleting_what_is_not_there_is_no_error(artifacts: ArtifactStore) -> None:
    await artifacts.delete("inputs/nobody")
    await artifacts.put("inputs/a", b"x")
    await artifacts.delete("inputs/a")
    with pytest.raises(ArtifactNotFound, match="inputs/a"):
        await artifacts.get("inputs/a")


KEYS = (
    "",
    "/etc/passwd",
    "..",
    "jobs/../../etc/passwd",
    "jobs/a/..",
    "jobs/a/../b/0.png",
    "jobs/a/.hidden",
    "jobs/a/b/c",
    "jobs//0.png",
    "jobs/a/",
    "inputs/",
    "inputs/a/b",
    "inputs/a%2f..",
    "inputs/a\n",
    "inputs/a\x00",
    "other/a",
    "jobs/a\\..\\b/0.png",
    f"inputs/{'a' * 65}",
)


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_of_another_form_reaches_nothing(artifacts: ArtifactStore, key: str) -> None:
    with pytest.raises(InvalidKey):
        await artifacts.put(key, b"x")
    with pytest.raises(InvalidKey):
        await artifacts.get(key)
    with pytest.raises(InvalidKey):
        await artifacts.read(key)
    with pytest.raises(InvalidKey):
        await artifacts.delete(key)


@pytest.mark.parametrize("prefix", ["", "jobs/", "jobs/a", "inputs/", "jobs/../", "/"])
async def test_only_a_whole_job_can_be_cleared(artifacts: ArtifactStore, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        await artifacts.delete_prefix(prefix)


def test_a_place_that_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (str(tmp_path / "file" / "folder"), "nosuchstorage://bucket"):
        with pytest.raises(StoreError, match=r"cannot be used: .*DIFFUSION_ROUTER_ARTIFACTS_URL"):
            ArtifactStore.open(url)
