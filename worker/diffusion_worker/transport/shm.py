"""The shared-memory back end: for workers of one pod or machine, which see one /dev/shm.

The pool is a named segment; a consumer maps the producer's segment and copies out of it. A lock that the producer holds
on the segment as long as it lives tells the living from the dead, for consumers and for the next start, which removes
what killed workers left behind.

The segments of one pipeline lie in a folder of its own, named after its key, and a worker maps none of another folder.
In a cluster the pods of a pipeline see no other's folder. Processes of one user that see it can read and write it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from diffusion_worker.digest import PIECE
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import EngineInitFailed, OutOfRange, PeerDead
from diffusion_worker.transport.pool import Pool, Slot, allocate
from diffusion_worker.transport.pull import Deadline, PullingTransport
from diffusion_worker.transport.seal import SEAL_BYTES

MODE: Final = "shm"
FOLDER: Final = Path("/dev/shm")
THREADS: Final = 4
HALVED: Final = 8 << 20
PREFIX: Final = "diffusion-"
ATTEMPTS: Final = 10
_URL: Final = re.compile(rf"shm://({PREFIX}[0-9a-f]{{16}})/([0-9a-f]{{16}})")


class _Segment:
    """A producer's pool, mapped for reading as long as somebody holds this."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY)
        self.memory = mmap.mmap(self.file, 0, prot=mmap.PROT_READ)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    @property
    def served(self) -> bool:
        return _locked(self.file)


class ShmTransport(PullingTransport):
    def __init__(self, *, key: str, pool_size: int, incarnation: str) -> None:
        remove_orphans()
        self._folder = folder_of(key)
        self._path, self._file, memory = _create(self._folder, pool_size)
        url = f"{MODE}://{self._folder.name}/{self._path.name}"
        super().__init__(Pool(memory, incarnation=incarnation, mode=MODE, url=url))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pull")
        # Apart, so that a pull never waits for a thread that waits for it.
        self._helpers = ThreadPoolExecutor(THREADS, thread_name_prefix="pull-half")
        self._segments: dict[str, _Segment] = {}

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        loop = asyncio.get_running_loop()
        segment = self._segment(descriptor)
        work = loop.run_in_executor(self._threads, self._copy, segment, descriptor, slot, deadline)
        try:
            async with asyncio.timeout(deadline.left):
                return await asyncio.shield(work)
        except (TimeoutError, asyncio.CancelledError):
            self.pool.quarantine(slot)
            work.add_done_callback(lambda done: self._ended(done, slot))
            raise

    def drop_peer(self, incarnation: str) -> None:
        """Unmaps its segment, once no copy is under way."""
        self._segments.pop(incarnation, None)

    async def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._helpers.shutdown(wait=False)
        self._segments.clear()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another worker's pool is in there
            self._folder.rmdir()
        os.close(self._file)

    def _segment(self, descriptor: Descriptor) -> _Segment:
        segment = self._segments.get(descriptor.incarnation)
        if segment is None:
            match = _URL.fullmatch(descriptor.url)
            if match is None:
                raise OutOfRange(f"{descriptor.url!r} is not the URL of a pool in shared memory")
            if match[1] != self._folder.name:
                raise OutOfRange(f"{descriptor.url} is another pipeline's: this one's pools are in {self._folder}")
            try:
                segment = _Segment(self._folder / match[2])
            except OSError as error:
                raise PeerDead(f"{descriptor.url}: {error.strerror}") from error
        if not segment.served:
            self._segments.pop(descriptor.incarnation, None)
            raise PeerDead(f"the worker behind {descriptor.url} is gone")
        self._segments[descriptor.incarnation] = segment
        return segment

    def _copy(self, segment: _Segment, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        """In a thread. The copy is hashed, since the source may still change; hashing follows close behind copying.

        One core can't fill the memory's bandwidth: the rear half of a large payload is copied by another thread.
        """
        start, length = descriptor.address, descriptor.length
        if start + length > len(segment.memory):
            raise OutOfRange(f"{length} bytes at {start} of a pool of {len(segment.memory)}")
        source = np.frombuffer(segment.memory, np.uint8, count=length, offset=start)
        region = slot.region[:length]
        target, digest = np.frombuffer(region, np.uint8), xxhash.xxh3_64()
        middle = length // 2 if length >= HALVED else length
        rear = self._helpers.submit(np.copyto, target[middle:], source[middle:]) if middle < length else None
        try:
            np.copyto(target[:SEAL_BYTES], source[:SEAL_BYTES])
            for begin in range(SEAL_BYTES, middle, PIECE):
                end = min(middle, begin + PIECE)
                np.copyto(target[begin:end], source[begin:end])
                digest.update(region[begin:end])
                if deadline.left == 0:
                    raise TimeoutError
        finally:
            if rear is not None:
                rear.result()  # nothing may land in the slot after this has returned
        for begin in range(middle, length, PIECE):
            digest.update(region[begin : min(length, begin + PIECE)])
        return digest.intdigest()

    def _ended(self, work: asyncio.Future[int], slot: Slot) -> None:
        if not work.cancelled():
            work.exception()  # nobody waits for it any more
        self.pool.end_quarantine(slot)


def folder_of(key: str) -> Path:
    """Of the pipeline that has this key."""
    return FOLDER / f"{PREFIX}{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _create(folder: Path, size: int) -> tuple[Path, int, mmap.mmap]:
    """A locked segment. It gets its name when it is locked, so nobody can take it for an orphan."""
    try:
        file = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        raise EngineInitFailed(f"can't make a pool in {FOLDER}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        memory = allocate(size, file)
        return _name(folder, file), file, memory
    except OSError as error:
        os.close(file)
        raise EngineInitFailed(
            f"can't make a pool of {size} bytes in {folder}: {error.strerror}; in a pod, mount an emptyDir of medium "
            f"Memory at {FOLDER}, or lower spec.transport.poolSize"
        ) from error
    except BaseException:
        os.close(file)
        raise


def _name(folder: Path, file: int) -> Path:
    """Gives an open file a name in the pipeline's folder."""
    for _ in range(ATTEMPTS):
        _make_private(folder)
        path = folder / secrets.token_hex(8)
        # Another worker may have removed the folder, which was empty until now.
        with contextlib.suppress(FileNotFoundError):
            place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.link(f"/proc/self/fd/{file}", path.name, dst_dir_fd=place)
            finally:
                os.close(place)
            return path
    raise EngineInitFailed(f"{folder} vanished {ATTEMPTS} times: something removes it as soon as it is made")


def _make_private(folder: Path) -> None:
    """Makes the folder, or sees that it is this user's alone: anybody can make one in /dev/shm."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EngineInitFailed(
            f"{folder} is not a folder that only this worker's user (uid {os.geteuid()}) can enter: remove it"
        )


def remove_orphans() -> None:
    """Unlink the segments of workers that were killed, of whichever pipeline, and folders in which there are none."""
    for path in FOLDER.glob(f"{PREFIX}*/*"):
        with contextlib.suppress(OSError):  # another's segment, or another start was quicker
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if not _locked(file):
                    path.unlink(missing_ok=True)
            finally:
                os.close(file)
    for folder in FOLDER.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # there are some, or it is another's
            folder.rmdir()


def _locked(file: int) -> bool:
    """Whether another process holds the segment's lock: its producer lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
