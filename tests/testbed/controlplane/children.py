"""Child processes that cannot outlive the test run, whatever ends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

# Paths of sockets below it may have 108 characters.
_ROOT = Path(tempfile.gettempdir())
PREFIX = "dop-"


class Folder:
    """A temporary folder that the next run removes if this one is killed."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_ROOT))
        self._lock = _take_lock(self.path)

    def remove(self) -> None:
        shutil.rmtree(self.path)
        self._lock.close()


def in_use(folder: Path) -> bool:
    """Whether the run that made this Folder goes on. (A relative path is one among temporary folders.)"""
    try:
        with (_ROOT / folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def spawn(
    *command: str | Path, log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program that the kernel ends with the thread that started it: use a thread that lasts, as the main one.

    It has a session of its own, so that Ctrl-C is left for the test run to handle. One whose parent is gone before the
    kernel was told of it finds another parent than it should have, and ends.
    """
    only_with_parent = f'[ "$PPID" = {os.getpid()} ] && exec "$@"'
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "sh", "-c", only_with_parent, "sh", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )


MEASURED: Final = "COVERAGE_PROCESS_CONFIG"
"""Set where coverage is measured: a process that has it too writes down what it ran, unless it is killed."""


def plain_environment() -> dict[str, str]:
    """None of the test run's own settings: certificates, proxies, a kubeconfig."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", MEASURED) if name in os.environ}


def tail(log: Path, characters: int = 4000) -> str:
    return log.read_text(errors="replace")[-characters:] if log.exists() else ""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _take_lock(folder: Path) -> IO[str]:
    """Under another name until it is held: a sweep must never find a lock that nobody holds yet."""
    lock = (folder / "lock.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / "lock")
    return lock


def _sweep() -> None:
    for path in _ROOT.glob(f"{PREFIX}*/lock"):
        if path.stat().st_uid != os.getuid():
            continue
        # What a process that is just being killed still writes, the next run removes.
        with contextlib.suppress(OSError), path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path.parent)
