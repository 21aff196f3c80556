"""One pod as a supervised process: started, watched, restarted as the kubelet does, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Final

from diffusion_operator.render import names
from dpipe.up.pods import LocalProcess
from dpipe.up.ports import LOOPBACK

FIRST_BACK_OFF: Final = 0.5
LONGEST_BACK_OFF: Final = 10.0
STABLE_SECONDS: Final = 30.0
_SPAWN_SECONDS: Final = 30.0
_TAIL_LINES: Final = 20
_CHILD: Final = str(Path(__file__).with_name("child.py"))
_OURS: Final = ("DIFFUSION_WORKER_", "DIFFUSION_ROUTER_")


class PodState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    BACK_OFF = "back-off"
    ENDED = "ended"


class LocalPod:
    """A pod's process and the thread that watches it.

    The thread that starts a process must live as long as it does: the kernel ends a process with the *thread* that
    made it (see `child`).
    """

    def __init__(self, spec: LocalProcess, log_path: Path, *, restart: bool = True) -> None:
        self.spec = spec
        self.log_path = log_path
        self.restart = restart
        """Whether a process that ended is started again. May be changed at any time."""
        self.restarts = 0
        self.exit_code: int | None = None
        """Of the last process that ended; negative: the signal that ended it."""
        self.state = PodState.PENDING
        self._process: subprocess.Popen[bytes] | None = None
        # Held whenever a signal is sent or the process is reaped, so that no signal can hit a stranger.
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._spawned = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.spec.pod

    @property
    def role(self) -> str:
        return self.spec.role

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def health_url(self) -> str:
        """Serves /healthz, /readyz and /metrics."""
        ports = self.spec.ports
        return f"http://{LOOPBACK}:{ports.get(names.HEALTH) or ports[names.HTTP]}"

    def start(self) -> None:
        """Starts the process and watches it; returns once it has an id. Also for a pod that has ended for good."""
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError(f"{self.name} is started already: stop it first")
        self._stopping.clear()
        self._spawned.clear()
        self.state = PodState.PENDING
        self._thread = threading.Thread(target=self._supervise, name=f"pod {self.name}", daemon=True)
        self._thread.start()
        if not self._spawned.wait(_SPAWN_SECONDS):
            raise TimeoutError(f"{self.name}: no process after {_SPAWN_SECONDS:.0f} s: this machine is overloaded")

    def ready(self, timeout: float = 1.0) -> bool:
        """Whether the process says that it is ready."""
        host = self.health_url.removeprefix("http://")
        connection = HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: int) -> bool:
        """Sends a signal to the process; False if none is running."""
        with self._lock:
            if self._process is None:
                return False
            os.kill(self._process.pid, number)
            return True

    def begin_stop(self) -> None:
        """SIGTERM, and no more restarts."""
        self._stopping.set()
        self.signal(signal.SIGTERM)

    def wait_stopped(self, deadline: float) -> bool:
        """Until the pod has ended for good (True) or the deadline (monotonic seconds) is past (False)."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process; it is restarted unless `restart` is off."""
        self.signal(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines that the process wrote."""
        try:
            text = self.log_path.read_bytes()[-16384:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    def _supervise(self) -> None:
        back_off = FIRST_BACK_OFF
        while True:
            started = time.monotonic()
            process = self._spawn()
            if process is not None:
                self._await_end(process)
            if self._stopping.is_set() or not self.restart:
                break
            # One that left as it was told is as a pod that was deleted, in whose place the StatefulSet's controller
            # makes another at once.
            if self.exit_code == 0 or time.monotonic() - started >= STABLE_SECONDS:
                back_off = FIRST_BACK_OFF
            self.state = PodState.BACK_OFF
            if self._stopping.wait(back_off):
                break
            back_off = min(back_off * 2, LONGEST_BACK_OFF)
            self.restarts += 1
        self.state = PodState.ENDED

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """Starts the process, unless the pod was told to stop meanwhile."""
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab", buffering=0) as log, self._lock:
            if self._stopping.is_set():
                return None
            process = self._popen(log)
            self._process = process
            self._spawned.set()
            self.state = PodState.RUNNING
        return process

    def _popen(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _CHILD, str(os.getpid()), *self.spec.command],
            env=_process_environment(self.spec.environment),
            cwd=self.spec.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Its own session: a Ctrl-C in the terminal is for dpipe alone, which stops the pods in order.
            start_new_session=True,
        )

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        # Not reaped yet: its id, and its process group, are still its own.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            # What the process started and left behind goes with it, as it would with its container.
            os.killpg(process.pid, signal.SIGKILL)
            self.exit_code = process.wait()
            self._process = None


def _process_environment(container: Mapping[str, str]) -> dict[str, str]:
    machine = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**machine, "PYTHONUNBUFFERED": "1", **container}
