"""The artifact store: files that clients sent and files that jobs made, in a folder or in object storage.

Keys are `jobs/<job id>/<name>` and `inputs/<id>`, and nothing else: a key from outside can reach no other file. A file
appears under its key whole or not at all, and what was put survives a power cut (in a folder, unless it is opened with
`flushed=False`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from diffusion_router.store.errors import StoreError, StoreUnavailable
from diffusion_router.store.folder import Folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_BYTES: Final = 1 << 20
_BATCH: Final = 500

_KEY: Final = re.compile(r"jobs/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}|inputs/[A-Za-z0-9_-]{1,64}")
_FOLDER: Final = re.compile(r"jobs/[A-Za-z0-9_-]{1,64}/")


class InvalidKey(ValueError):
    """Not a key of this store."""


class ArtifactNotFound(KeyError):
    """No file under this key."""

    def __str__(self) -> str:
        return f"No artifact {self.args[0]!r}"


@dataclass(frozen=True)
class Artifact:
    """A file's size in bytes, and its content as chunks of at most about CHUNK_BYTES."""

    size: int
    chunks: AsyncIterator[bytes]


class ArtifactStore:
    """All methods raise InvalidKey for a key of another form, and StoreUnavailable when the storage refuses."""

    def __init__(self, store: ObjectStore, name: str, folder: Folder | None = None) -> None:
        self._store = store
        self._name = name
        self._folder = folder

    @classmethod
    def open(cls, url: str, *, reserve: int = 0, flushed: bool = True) -> ArtifactStore:
        """url: a folder, as a path or file:// URL (made if absent), or s3://, gs://, az://, memory:// with its path.

        reserve: bytes that no file may take of a folder's disk. flushed: whether files in a folder are flushed.
        """
        parsed = urlparse(url)
        try:
            if parsed.scheme in ("", "file"):
                folder = Path(unquote(parsed.path) if parsed.scheme else url).absolute()
                store = LocalStore(folder, mkdir=True, automatic_cleanup=True)
                return cls(store, f"Artifact store {folder}", Folder(folder, reserve=reserve, flushed=flushed))
            return cls(from_url(url), f"Artifact store {parsed.scheme}://{parsed.netloc}{parsed.path}")
        except (BaseError, OSError, ValueError) as error:
            reason = _first_line(error)
            raise StoreError(
                f"Artifact store {url!r} cannot be used: {reason}. Set DIFFUSION_ROUTER_ARTIFACTS_URL to a folder that "
                "this user may write, or to an s3://, gs:// or az:// URL"
            ) from error

    async def put(self, key: str, data: bytes | AsyncIterable[bytes], size: int = 0) -> None:
        """Write a file under `key`, in place of one that is there. size: of what comes in chunks, if it is known.

        Whatever `data` raises passes through; then, as after any failure, there is no new file.
        """
        _check(key)
        if self._folder is not None:
            await self._check_room(key, len(data) if isinstance(data, bytes) else size)
        source = data if isinstance(data, bytes) else _Source(data)
        try:
            await self._put(key, source)
        except StoreUnavailable:
            if isinstance(source, bytes) or source.failure is None:
                raise
            raise source.failure from None
        if self._folder is not None:
            await self._folder.settle(key)

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The file's bytes, in chunks. Raises ArtifactNotFound."""
        return (await self.open_artifact(key)).chunks

    async def open_artifact(self, key: str) -> Artifact:
        """Size and content together. Raises ArtifactNotFound."""
        _check(key)
        try:
            found = await obstore.get_async(self._store, key)
        except FileNotFoundError as error:
            raise ArtifactNotFound(key) from error
        except (BaseError, OSError) as error:
            raise self._unavailable("a read", key, error) from error
        return Artifact(found.meta["size"], self._chunks(key, found))

    async def read(self, key: str) -> bytes:
        """The whole file, for small ones. Raises ArtifactNotFound."""
        _check(key)
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise ArtifactNotFound(key) from error
        except (BaseError, OSError) as error:
            raise self._unavailable("a read", key, error) from error

    async def delete(self, key: str) -> None:
        """Remove one file; an absent one is no error."""
        _check(key)
        await self._delete([key])

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all files of a job, `jobs/<job id>/`; returns how many there were."""
        if not _FOLDER.fullmatch(prefix):
            raise InvalidKey(f"Artifact prefix {prefix!r} is not jobs/<job id>/")
        try:
            keys = [entry["path"] async for batch in obstore.list(self._store, prefix) for entry in batch]
        except (BaseError, OSError) as error:
            raise self._unavailable("a listing", prefix, error) from error
        await self._delete(keys)
        return len(keys)

    async def all_keys(self) -> AsyncIterator[list[str]]:
        """Keys of all files, in batches, also of those that an upload that was cut off left unfinished."""
        try:
            if self._folder is not None:
                keys = await asyncio.to_thread(lambda folder: list(folder.files()), self._folder)
                for start in range(0, len(keys), _BATCH):
                    yield keys[start : start + _BATCH]
            else:
                async for batch in obstore.list(self._store, chunk_size=_BATCH):
                    yield [entry["path"] for entry in batch]
        except (BaseError, OSError) as error:
            raise self._unavailable("a listing", "all files", error) from error

    async def remove(self, key: str) -> None:
        """A file that `all_keys` named, whatever its key is like."""
        try:
            if self._folder is not None:
                await asyncio.to_thread(self._folder.remove, key)
            else:
                await self._delete([key])
        except OSError as error:
            raise self._unavailable("a deletion", key, error) from error

    async def _check_room(self, key: str, size: int) -> None:
        assert self._folder is not None
        try:
            await self._folder.check_room(size)
        except OSError as error:
            raise self._unavailable("a write", key, error) from error

    async def _put(self, key: str, data: bytes | AsyncIterable[bytes]) -> None:
        try:
            await obstore.put_async(self._store, key, data)
        except (BaseError, OSError) as error:
            raise self._unavailable("a write", key, error) from error

    async def _delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise self._unavailable("a deletion", key, error) from error

    async def _chunks(self, key: str, found: obstore.GetResult) -> AsyncIterator[bytes]:
        try:
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise self._unavailable("a read", key, error) from error

    def _unavailable(self, what: str, key: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{self._name} refused {what} of {key}: {_first_line(error)}")


class _Source:
    """Passes chunks on, and tells the source's failures from the storage's."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self.failure: Exception | None = None
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.failure = error
            raise


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidKey(f"Artifact key {key!r} is neither jobs/<job id>/<name> nor inputs/<id>")


def _first_line(error: Exception) -> str:
    """obstore appends its whole source chain over many lines."""
    return str(error).partition("\n")[0]
