"""Which pipelines run on this machine: a small file each, so that `dpipe generate` finds what `dpipe up` started.

A file counts as long as somebody holds the lock of its data folder: a process id alone could be another program's.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dpipe.up.local import LOCK_FILE, LocalPipeline

STATE_FILE: Final = "state.json"


class NothingRunsError(LookupError):
    """No pipeline was found, or none of that name."""


@dataclass(frozen=True)
class Running:
    name: str
    url: str
    grpc: str
    data_dir: str
    pid: int


@contextmanager
def announced(local: LocalPipeline) -> Iterator[Running]:
    """Makes a started pipeline findable while the block runs."""
    running = Running(
        name=local.pipeline.name,
        url=local.http_url,
        grpc=local.grpc_address,
        data_dir=str(local.data_dir),
        pid=os.getpid(),
    )
    text = json.dumps(asdict(running), indent=2)
    files = (local.data_dir / STATE_FILE, runtime_folder() / f"{running.name}-{running.pid}.json")
    for file in files:
        file.write_text(text)
    try:
        yield running
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def find(name: str | None = None) -> Running:
    """The pipeline started last, or last under this name. Raises NothingRunsError."""
    files = sorted(runtime_folder().glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for running in map(_read, files):
        if running is not None and name in (None, running.name):
            return running
    what = "no pipeline runs" if name is None else f"no pipeline {name} runs"
    raise NothingRunsError(f"{what} on this machine: start one with `dpipe up -f FILE`, or name a router with --url")


def _read(file: Path) -> Running | None:
    try:
        running = Running(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return running if _is_held(Path(running.data_dir) / LOCK_FILE) else None


def _is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def runtime_folder() -> Path:
    """This user's own folder for things that last as long as a session."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) / "dpipe" if base else Path(tempfile.gettempdir()) / f"dpipe-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def data_folder(name: str) -> Path:
    """Where `dpipe up` keeps a pipeline's jobs and logs unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "dpipe" / name
