"""`dpipe up`: a pipeline in the foreground, with a live table, until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diffusionpipeline.lastwords import last_words
from dpipe.client.registry import Overview, Registry, RegistryError, address_text, pool_text
from dpipe.up.local import LocalPipeline
from dpipe.up.process import LocalPod, PodState
from dpipe.up.running import Running, announced

_REFRESH_SECONDS: Final = 0.5


class Stop:
    """Set by the first SIGINT or SIGTERM; the second one makes it urgent."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.urgent = threading.Event()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        (self.urgent if self.asked.is_set() else self.asked).set()


def run_up(local: LocalPipeline, console: Console, *, show_logs: bool) -> None:
    """Runs until a signal comes, then stops everything. Raises DataFolderInUseError."""
    stop = Stop()
    with stop.on_signals():
        try:
            local.start()
            with announced(local) as running:
                _announce(local, running, console)
                with Registry(local.grpc_address) as registry:
                    _watch(local, registry, console, stop, show_logs=show_logs)
        finally:
            _stop(local, console, stop)


def _announce(local: LocalPipeline, running: Running, console: Console) -> None:
    console.print(f"{running.name}: HTTP {running.url}, gRPC {running.grpc}", highlight=False)
    console.print(f"data and logs in {local.data_dir}", highlight=False, soft_wrap=True)


def _watch(local: LocalPipeline, registry: Registry, console: Console, stop: Stop, *, show_logs: bool) -> None:
    logs = _LogFollower(local) if show_logs else None
    lines = _StateLines(local, console)
    # With logs scrolling by, or nobody at a terminal, lines say more than a table.
    with _table(console) if console.is_terminal and not show_logs else contextlib.nullcontext() as live:
        while not stop.asked.wait(_REFRESH_SECONDS):
            overview = _overview(registry)
            if live is not None:
                live.update(_picture(local, overview), refresh=True)
            else:
                lines.update()
            if logs is not None:
                logs.update(console)


def _table(console: Console) -> Live:
    return Live(console=console, auto_refresh=False, transient=False)


def _overview(registry: Registry) -> Overview | None:
    try:
        return registry.overview()
    except RegistryError:
        return None


def _picture(local: LocalPipeline, overview: Overview | None) -> Group:
    peers = {peer.pod_name: peer for peer in overview.peers} if overview else {}
    drawn = Table(box=None, pad_edge=False)
    for name in ("pod", "role", "state", "transport", "address"):
        drawn.add_column(name, overflow="fold")
    for name in ("tasks", "pool", "restarts", "pid"):
        drawn.add_column(name, justify="right")
    for pod in local.pods.values():
        peer = peers.get(pod.name)
        drawn.add_row(
            pod.name,
            pod.role,
            Text(state := _state(local, pod, overview, pod.name in peers), style=_STYLES.get(state, "yellow")),
            peer.pool.mode if peer else "",
            address_text(peer) if peer else local.http_url if pod is local.router else "",
            f"{peer.tasks} of {peer.capacity}" if peer else "",
            pool_text(peer) if peer else "",
            str(pod.restarts),
            str(pod.pid or ""),
        )
    queue = (
        f"queued {overview.queued}, in progress {overview.in_progress}" if overview else "the router does not answer"
    )
    ended = [pod for pod in local.pods.values() if pod.state is not PodState.RUNNING and pod.exit_code]
    return Group(
        drawn,
        *(Text(f"{pod.name} ended with exit code {pod.exit_code}{_said(pod)}", style="red") for pod in ended),
        Text(f"{queue} · Ctrl-C stops", style="dim"),
    )


def _said(pod: LocalPod) -> str:
    words = last_words(pod.log_tail())
    return f": {words}" if words else ""


_STYLES: Final = {"ready": "green", "back-off": "red", "ended": "red"}


def _state(local: LocalPipeline, pod: LocalPod, overview: Overview | None, registered: bool) -> str:
    if pod.state is not PodState.RUNNING:
        return str(pod.state)
    up = overview is not None if pod is local.router else registered
    return "ready" if up else "starting"


class _StateLines:
    """A line whenever a pod's state changes, for logs and pipes."""

    def __init__(self, local: LocalPipeline, console: Console) -> None:
        self._local, self._console = local, console
        self._last: dict[str, str] = {}
        self._ready = False

    def update(self) -> None:
        unready = {pod.name for pod in self._local.unready()}
        for pod in self._local.pods.values():
            if pod.state is not PodState.RUNNING:
                text = f"{pod.state}, last exit code {pod.exit_code}{_said(pod)} (log: {pod.log_path})"
            else:
                text = f"{'starting' if pod.name in unready else 'ready'}, pid {pod.pid}"
            if self._last.get(pod.name) != text:
                self._last[pod.name] = text
                self._console.print(f"{pod.name}: {text}", highlight=False, soft_wrap=True)
        if self._ready != (not unready):
            self._ready = not unready
            word = "ready" if self._ready else "not ready"
            self._console.print(f"{self._local.pipeline.name} is {word}: {self._local.http_url}", highlight=False)


class _LogFollower:
    """Prints what the pods write, each line under its pod's name."""

    def __init__(self, local: LocalPipeline) -> None:
        self._files: dict[str, tuple[Path, IO[bytes] | None]] = {
            pod.name: (pod.log_path, None) for pod in local.pods.values()
        }

    def update(self, console: Console) -> None:
        for name, (path, file) in self._files.items():
            if file is None:
                if not path.exists():
                    continue
                file = path.open("rb")
                self._files[name] = (path, file)
            while line := file.readline():
                if not line.endswith(b"\n"):
                    # Half a line: the rest is still to come.
                    file.seek(-len(line), 1)
                    break
                console.print(
                    Text(f"{name} | ", style="cyan") + Text(_readable(line.decode(errors="replace").rstrip()))
                )


def _readable(line: str) -> str:
    """A JSON log line as a person reads it; any other line as it is."""
    try:
        entry = json.loads(line)
        when, level, event = entry.pop("timestamp"), entry.pop("level"), entry.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return line
    rest = " ".join(f"{name}={value}" for name, value in entry.items())
    return f"{when[11:23]} {level:<7} {event} {rest}".rstrip()


def _stop(local: LocalPipeline, console: Console, stop: Stop) -> None:
    console.print("stopping (once more to kill)", highlight=False)
    result: list[str] = []
    stopper = threading.Thread(target=lambda: result.extend(local.stop()), name="stop")
    stopper.start()
    while stopper.is_alive():
        if stop.urgent.is_set():
            for pod in local.pods.values():
                pod.kill()
        stopper.join(0.1)
    if result:
        console.print(f"killed after the grace period: {', '.join(result)}", highlight=False)
    console.print(f"stopped at {time.strftime('%H:%M:%S')}", highlight=False)
