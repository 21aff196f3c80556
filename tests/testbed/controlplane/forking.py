"""Operators that start in a few hundredths of a second: forked from a process that has imported everything.

Hundreds of them are killed at each of their requests, and 1.5 s of imports for each would be most of the time. What is
forked is a process like any other: SIGKILL ends it in the middle of whatever it does. The parent imports, reads
the definitions, and does nothing else; threads, event loops and connections begin in the children.

    python -m testbed.controlplane.forking SOCKET

forks a child for each connection: the log's path and the operator's flags come in, the child's pidfd goes out.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from testbed.controlplane.children import Folder, plain_environment, spawn, tail
from testbed.controlplane.operators import Operator
from testbed.waiting import until

_TESTS = Path(__file__).parents[2]
_START_SECONDS = 30.0
_MESSAGE_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1


class Forker:
    """Where operators are forked from. To be started by a thread that outlives them."""

    def __enter__(self) -> Self:
        self._folder = Folder()
        self._socket = self._folder.path / "forker"
        log = self._folder.path / "forker.log"
        self._process = spawn(
            *(sys.executable, "-m", "testbed.controlplane.forking", self._socket),
            log=log,
            environment={**plain_environment(), "PYTHONPATH": str(_TESTS)},
        )

        def runs() -> None:
            assert self._process.poll() is None, f"the forker ended:\n{tail(log)}"

        until(self._socket.exists, _START_SECONDS, "the forker listens", unless=runs)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # its children end with it
        self._process.wait()
        self._folder.remove()

    def fork(self, log: Path, flags: tuple[str, ...]) -> Forked:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(json.dumps({"log": str(log), "flags": flags}).encode())
            connection.shutdown(socket.SHUT_WR)
            pid, descriptors, _, _ = socket.recv_fds(connection, 32, 1)
        return Forked(int(pid), descriptors[0])


class Forked:
    """What a Popen is to a child of one's own. How it ended, only its parent could say."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("operator", timeout or 0)
        return -signal.SIGKILL


class ForkedOperator(Operator):
    """An operator as a process that was forked rather than started."""

    def __init__(self, forker: Forker, kubeconfig: Path, *flags: str, log: Path) -> None:
        super().__init__(kubeconfig, *flags, log=log)
        self._forker = forker

    def launch(self) -> Forked:
        return self._forker.fork(self.log, self.flags)


def _serve(address: str) -> None:
    """In the parent. A child leaves by the exception that ends every operator, SystemExit."""
    from diffusion_operator import api, app, settings

    for plural in api.crd.PLURALS:
        api.crd.definition(plural)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            with connection:
                order = json.loads(_read(connection))
                pid = os.fork()
                if pid == 0:
                    break
                descriptor = os.pidfd_open(pid)
                socket.send_fds(connection, [str(pid).encode()], [descriptor])
                os.close(descriptor)
            _bury()
    _become_child(order)
    app.main(settings.Settings.read(order["flags"]))


def _read(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(_MESSAGE_BYTES), b""))


def _bury() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become_child(order: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    _serve(sys.argv[1])
