"""A folder of artifacts: what is put survives a power cut, and leaves the job store room to write."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusion_router.store import ArtifactStore, StoreUnavailable


class Disk:
    """What has been flushed, in order, as the kernel is asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: list[str] = []
        self.failure: OSError | None = None
        self._really = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self.flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        if self.failure is not None:
            raise self.failure
        self._really(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def in_chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("whole", [True, False])
async def test_a_file_and_all_folders_above_it_are_flushed_before_it_counts(
    disk: Disk, tmp_path: Path, whole: bool
) -> None:
    store = ArtifactStore.open(str(tmp_path / "files"))
    await store.put("jobs/a/0.png", b"picture" if whole else in_chunks(b"pic", b"ture"))
    of = tmp_path / "files"
    assert disk.flushed == [str(path) for path in (of / "jobs/a/0.png", of / "jobs/a", of / "jobs", of)]


async def test_what_comes_together_is_flushed_together(disk: Disk, tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "files"))
    await asyncio.gather(*(store.put(f"jobs/a/{number}.png", b"x") for number in range(40)))
    files = [path for path in disk.flushed if path.endswith(".png")]
    assert len(files) == 40
    assert len(disk.flushed) - len(files) < 3 * 40, "each folder once for all that is in it"


async def test_a_file_that_cannot_be_flushed_is_not_kept_as_if_it_were(disk: Disk, tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "files"))
    disk.failure = OSError(5, "Input/output error")
    with pytest.raises(StoreUnavailable, match=r"did not flush 0\.png: Input/output error\. Check its disk"):
        await store.put("jobs/a/0.png", b"x")
    disk.failure = None
    await store.put("jobs/a/0.png", b"x")


async def test_a_folder_that_is_said_to_be_relaxed_is_not_flushed(disk: Disk, tmp_path: Path) -> None:
    await ArtifactStore.open(str(tmp_path / "files"), flushed=False).put("jobs/a/0.png", b"x")
    assert not disk.flushed


@pytest.mark.parametrize("whole", [True, False])
async def test_files_leave_the_job_store_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    store = ArtifactStore.open(str(tmp_path / "files"), reserve=10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=11 << 20))
    data = bytes(2 << 20)
    words = r"is full: 11 MiB of its disk are free, and 10 MiB are kept for the job store"
    with pytest.raises(StoreUnavailable, match=words):
        await store.put("jobs/a/0.png", data if whole else in_chunks(data), len(data))
    assert not list((tmp_path / "files").rglob("*.png"))
    await store.put("jobs/a/0.png", b"x")
