"""A pipeline on this machine: the pods that `render` makes, each as a process.

    with LocalPipeline(load_pipeline(resource), data_dir=folder) as local:
        local.wait_ready(60)
        ...local.http_url, local.grpc_address, local.pods["digits-denoiser-0"].pid

Blocking calls and threads, no event loop: the pods are watched whatever the caller does meanwhile.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Self

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names, render
from diffusionpipeline.words import LogFormat, LogLevel
from dpipe.up.pods import local_processes
from dpipe.up.ports import LOOPBACK
from dpipe.up.process import LocalPod, PodState

WORKER_GRACE_SECONDS: Final = 15.0
ROUTER_GRACE_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
# A pod that ended this often before anything was ready will not come up by itself.
_HOPELESS_RESTARTS: Final = 3
LOCK_FILE: Final = "lock"


class DataFolderInUseError(RuntimeError):
    """Another running pipeline has this data folder."""


class NotReadyError(RuntimeError):
    """The pipeline did not become ready. The message has the last lines of the pods that are not."""


class LocalPipeline:
    """Runs a pipeline's pods as processes. Use it once: start, then stop.

    data_dir: what the router keeps, logs, working folders. The same folder later: the jobs are still there.
    http_port: the router's; 0: a free one.
    restart: whether a process that ended is started again, with back-off, as the kubelet does. Each pod has its own
    switch too.
    log_level, log_format: of every process whose resource names no other.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        data_dir: Path,
        http_port: int = 0,
        restart: bool = True,
        log_level: LogLevel = "info",
        log_format: LogFormat = "auto",
    ) -> None:
        self.pipeline = pipeline
        self.data_dir = data_dir.absolute()
        self._lock: IO[str] | None = None
        processes = local_processes(render(pipeline), data_dir=self.data_dir, http_port=http_port)
        logging = {
            f"DIFFUSION_{program}_LOG_{name}": value
            for program in ("ROUTER", "WORKER")
            for name, value in (("LEVEL", log_level), ("FORMAT", log_format))
        }
        # Of this run of the pipeline, and of no other whose resource has the same name.
        key = {names.SHM_KEY_VARIABLE: str(self.data_dir)}
        logs = self.data_dir / "logs"
        self.pods: Mapping[str, LocalPod] = {
            spec.pod: LocalPod(
                replace(spec, environment={**logging, **spec.environment, **key}),
                logs / f"{spec.pod}.log",
                restart=restart,
            )
            for spec in processes
        }

    @property
    def router(self) -> LocalPod:
        return next(pod for pod in self.pods.values() if pod.role == Role.ROUTER)

    @property
    def workers(self) -> tuple[LocalPod, ...]:
        return tuple(pod for pod in self.pods.values() if pod.role != Role.ROUTER)

    @property
    def http_url(self) -> str:
        """Of the router's HTTP interface."""
        return f"http://{LOOPBACK}:{self.router.spec.ports[names.HTTP]}"

    @property
    def grpc_address(self) -> str:
        """host:port of the router's gRPC interface."""
        return f"{LOOPBACK}:{self.router.spec.ports[names.GRPC]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all processes and returns. Raises DataFolderInUseError."""
        self._take_folder()
        for pod in self.pods.values():
            pod.log_path.parent.mkdir(exist_ok=True)
            pod.log_path.unlink(missing_ok=True)
            pod.start()

    def unready(self) -> list[LocalPod]:
        """Pods that do not say that they are ready."""
        return [pod for pod in self.pods.values() if not pod.ready()]

    def wait_ready(self, timeout: float) -> None:
        """Until every pod is ready. Raises NotReadyError at the time-out, or as soon as waiting is hopeless."""
        deadline = time.monotonic() + timeout
        while waiting := self.unready():
            hopeless = [pod for pod in waiting if pod.restarts >= _HOPELESS_RESTARTS or pod.state is PodState.ENDED]
            if hopeless:
                raise NotReadyError(_failures("ended again and again", hopeless))
            if time.monotonic() > deadline:
                raise NotReadyError(_failures(f"not ready after {timeout:.0f} s", waiting))
            time.sleep(_POLL_SECONDS)

    def stop(self) -> list[str]:
        """Ends all processes: workers first, so that the router hears what becomes of their tasks.

        Each group has its grace after SIGTERM, then SIGKILL. Gives the pods that had to be killed.
        """
        if self._lock is None:
            return []
        killed = _stop(self.workers, WORKER_GRACE_SECONDS) + _stop((self.router,), ROUTER_GRACE_SECONDS)
        self._lock.close()
        self._lock = None
        return killed

    def _take_folder(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.data_dir / LOCK_FILE).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise DataFolderInUseError(
                f"{self.data_dir} belongs to a pipeline that is running: end it, or choose another folder by --data"
            ) from None
        self._lock = lock


def _stop(pods: tuple[LocalPod, ...], grace: float) -> list[str]:
    for pod in pods:
        pod.begin_stop()
    deadline = time.monotonic() + grace
    slow = [pod for pod in pods if not pod.wait_stopped(deadline)]
    for pod in slow:
        pod.kill()
    deadline = time.monotonic() + _KILL_SECONDS
    for pod in slow:
        if not pod.wait_stopped(deadline):
            raise TimeoutError(f"{pod.name} (process {pod.pid}) is still there {_KILL_SECONDS:.0f} s after SIGKILL")
    return [pod.name for pod in slow]


def _failures(what: str, pods: list[LocalPod]) -> str:
    parts = [f"{', '.join(pod.name for pod in pods)}: {what}"]
    for pod in pods:
        code = "" if pod.exit_code is None else f", last exit code {pod.exit_code}"
        parts.append(f"--- {pod.name} ({pod.state}{code}), last lines of {pod.log_path}\n{pod.log_tail()}")
    return "\n".join(parts)
