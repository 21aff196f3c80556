"""What a folder of files needs beyond what any object storage does: flushes, room for others, and its leftovers.

A file that was renamed into place is in its folder's memory alone until both are flushed: after a power cut it may be
empty, or not there. What waits for a flush goes together: each folder is flushed once for all files in it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from diffusion_router.store.errors import StoreUnavailable

FLUSH_SECONDS: Final = 60.0
_AT_ONCE: Final = 8


class Folder:
    """reserve: bytes of the disk that are left to others (the job store may be there). flushed: whether a file is on
    disk when `settle` returns."""

    def __init__(self, path: Path, *, reserve: int, flushed: bool) -> None:
        self.path = path
        self._reserve = reserve
        self._flushed = flushed
        self._waiting: list[tuple[Path, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def check_room(self, size: int) -> None:
        """Raises StoreUnavailable unless a file of `size` bytes leaves the reserve untouched."""
        free = (await asyncio.to_thread(shutil.disk_usage, self.path)).free
        if free - size < self._reserve:
            raise StoreUnavailable(
                f"Artifact store {self.path} is full: {free >> 20} MiB of its disk are free, and "
                f"{self._reserve >> 20} MiB are kept for the job store (DIFFUSION_ROUTER_DISK_RESERVE_BYTES). Give it "
                "more room, or keep ended jobs for less long (DIFFUSION_ROUTER_RETAIN_SECONDS)"
            )

    async def settle(self, key: str) -> None:
        """The file survives a power cut from now on, if this folder is flushed at all. Raises StoreUnavailable."""
        if not self._flushed:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._waiting.append((self.path / key, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.shield(done)
        except TimeoutError as error:
            raise StoreUnavailable(f"Artifact store {self.path} did not flush {key} in {FLUSH_SECONDS:g} s") from error

    async def _flush(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                failures = await asyncio.to_thread(_flush_all, self.path, [path for path, _ in group])
                for path, done in group:
                    if (failure := failures.get(path)) is None:
                        done.set_result(None)
                    else:
                        text = f"did not flush {path.name}: {failure.strerror}. Check its disk"
                        done.set_exception(StoreUnavailable(f"Artifact store {self.path} {text}"))
        finally:
            self._flushing = None

    def files(self) -> Iterator[str]:
        """Keys of all files, those of uploads that were cut off included. Blocks."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                yield str((Path(folder) / name).relative_to(self.path))

    def remove(self, key: str) -> None:
        """One that is not there is no error. Blocks. Raises OSError."""
        path = self.path / key
        path.unlink(missing_ok=True)
        try:
            path.parent.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                raise


def _flush_all(root: Path, paths: Iterable[Path]) -> dict[Path, OSError]:
    """Flush files, and each folder from theirs up to the root once. What could not be flushed, and why.

    Side by side, since file systems put what is flushed at once into one write of their journal.
    """
    files = list(dict.fromkeys(paths))
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folder = path.parent
        while folder.is_relative_to(root):
            folders.setdefault(folder, []).append(path)
            folder = folder.parent
    failures: dict[Path, OSError] = {}
    with ThreadPoolExecutor(_AT_ONCE) if len(files) > 1 else nullcontext() as pool:
        run = map if pool is None else pool.map
        for path, error in zip(files, run(_flush, files), strict=True):
            if error is not None:
                failures[path] = error
        for inside, error in zip(folders.values(), run(_flush, folders), strict=True):
            if error is not None:
                failures.update(dict.fromkeys(inside, error))
    return failures


def _flush(path: Path) -> OSError | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    return None
