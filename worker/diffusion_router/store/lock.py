"""Who serves a pipeline's jobs: one router at a time.

Two routers on one store would each run every job. A lock of the kernel ends with the process that holds it, however
that ends, so a router that was killed is followed at once. It lies beside the database's file; of a database that is no
file, nobody is kept out.
"""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sqlalchemy.engine import URL

from diffusion_router.store.errors import StoreError, StoreServed


class ServingLock:
    """Held from `acquire` to `release`, or to the end of this process."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    @classmethod
    def acquire(cls, url: URL, pipeline: str) -> ServingLock:
        """Raises StoreServed, which says who holds it, and StoreError where no lock can be made."""
        if url.get_backend_name() != "sqlite" or url.database is None:
            return cls(None)
        path = Path(f"{url.database}.{quote(pipeline, safe='')}.lock")
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"Lock {path} of the job store cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(1000).strip() or "another process"
            file.close()
            raise StoreServed(
                f"Job store {url.database} is served already, for pipeline {pipeline!r}, by {holder}. Two routers "
                "would run every job twice: stop that one, or give this one another data folder or store URL "
                "(DIFFUSION_ROUTER_STORE_URL)"
            ) from None
        except OSError as error:
            file.close()
            raise StoreError(f"Lock {path} of the job store cannot be taken: {error.strerror}") from error
        file.truncate(0)
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        file.flush()
        return cls(file)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
