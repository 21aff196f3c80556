"""The operator under test as a process of its own, with no more rights than its pod would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import httpx

from testbed.controlplane.access import allow
from testbed.controlplane.children import MEASURED, free_ports, plain_environment, spawn, tail
from testbed.controlplane.cluster import Cluster
from testbed.earlier import python_path
from testbed.exposition import total
from testbed.waiting import TooLate, until

_ALL = ("get", "list", "watch", "create", "patch", "delete")
_GROUP = "diffusion-operator.dev"


def _rule(group: str, resources: Sequence[str], *verbs: str, **more: Any) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs), **more}


RULES = (
    _rule(_GROUP, ["diffusionpipelines", "modelcaches"], "get", "list", "watch"),
    _rule(_GROUP, ["diffusionpipelines/status", "diffusionpipelinerolescalers/status", "modelcaches/status"], "patch"),
    _rule(_GROUP, ["diffusionpipelinerolescalers"], *_ALL),
    _rule("", ["services", "configmaps", "serviceaccounts"], *_ALL),
    _rule("apps", ["statefulsets", "controllerrevisions", "daemonsets"], *_ALL),
    _rule("policy", ["poddisruptionbudgets"], *_ALL),
    _rule("networking.k8s.io", ["networkpolicies"], *_ALL),
    _rule("monitoring.coreos.com", ["podmonitors"], *_ALL),
    _rule("", ["pods"], "list", "watch"),
    _rule("", ["persistentvolumeclaims"], "list", "patch"),
    _rule("", ["events"], "list", "watch", "create", "patch"),
)
"""In each namespace that is watched, or cluster-wide."""

DEFINITIONS_RULE = _rule(
    "apiextensions.k8s.io",
    ["customresourcedefinitions"],
    "get",
    resourceNames=[
        f"{plural}.{_GROUP}" for plural in ("diffusionpipelines", "diffusionpipelinerolescalers", "modelcaches")
    ],
)
NODES_RULE = _rule("", ["nodes"], "list")
LEASE_RULE = _rule("coordination.k8s.io", ["leases"], "get", "create", "update")


def operator_user(
    cluster: Cluster, user: str, *, namespaces: Sequence[str] | None = None, lease_namespace: str | None = None
) -> None:
    """Gives `user` what an operator needs that watches these namespaces (None: all)."""
    if namespaces is None:
        allow(cluster, user, [*RULES, DEFINITIONS_RULE, NODES_RULE])
    else:
        allow(cluster, user, [DEFINITIONS_RULE])
        allow(cluster, user, RULES, namespaces)
    if lease_namespace is not None:
        allow(cluster, user, [LEASE_RULE], [lease_namespace], name=f"{user}-lease")


class Process(Protocol):
    """What is needed of a Popen."""

    pid: int

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Operator:
    """`python -m diffusion_operator` with flags. Started anew after `kill` or `stop`, it has its address again."""

    def __init__(self, kubeconfig: Path, *flags: str, log: Path, sources: Path | None = None) -> None:
        """sources: those of an earlier version (see `earlier`); None: this one."""
        self._sources = sources
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.flags = (
            f"--kubeconfig={kubeconfig}",
            "--http-host=127.0.0.1",
            f"--http-port={port}",
            "--log-format=json",
            *flags,
        )
        self._process: Process | None = None
        # One for all requests: each would read all certificates anew.
        self._http = httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._end(signal.SIGTERM if MEASURED in os.environ else signal.SIGKILL, 30)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    def start(self, *, ready_within: float | None = 30.0) -> None:
        """Returns when it says that it is ready; at once if `ready_within` is None."""
        assert self._process is None, "the operator was started before"
        self._process = self.launch()
        if ready_within is not None:
            self.wait_ready(ready_within)

    def launch(self) -> Process:
        program = (sys.executable, "-m", "diffusion_operator", *self.flags)
        environment = plain_environment()
        if self._sources is not None:
            environment["PYTHONPATH"] = python_path(self._sources)
        return spawn(*program, log=self.log, environment=environment)

    def wait_ready(self, seconds: float = 30.0) -> None:
        def runs() -> None:
            assert self.exit_code is None, f"the operator ended with {self.exit_code}:\n{tail(self.log)}"

        try:
            until(lambda: self.answers("/readyz"), seconds, "the operator is ready", unless=runs, longest_pause=0.02)
        except TooLate as late:
            raise TooLate(f"{late}:\n{tail(self.log)}") from None

    def answers(self, path: str) -> bool:
        try:
            return self._http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum over all series of this name that have these labels."""
        return total(self._http.get("/metrics").raise_for_status().text, name, **labels)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """As a lost node would: it does nothing more, and says no goodbye."""
        self._end(signal.SIGKILL, 10)

    def stop(self, seconds: float = 30.0) -> int:
        """As Kubernetes ends a pod; returns the exit code."""
        return self._end(signal.SIGTERM, seconds)

    def _end(self, how: signal.Signals, seconds: float) -> int:
        process, self._process = self._process, None
        assert process is not None, "the operator was not started"
        process.send_signal(how)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"the operator went on for {seconds:.0f} s after {how.name}:\n{tail(self.log)}"
            ) from None


class HastyOperator(Operator):
    """The same process, but for constants by which it waits seconds, not minutes.

    They are named from the package on: `{"cluster.watching.LAG_SECONDS": 4.0}`.
    """

    def __init__(self, kubeconfig: Path, *flags: str, constants: Mapping[str, object], log: Path) -> None:
        super().__init__(kubeconfig, *flags, log=log)
        lines = ["import importlib", "from diffusion_operator import app, settings"]
        for name, value in constants.items():
            module, _, constant = name.rpartition(".")
            lines.append(f"module = importlib.import_module('diffusion_operator.{module}')")
            # Read first: one that is not there would be set without a word.
            lines.append(f"module.{constant}; module.{constant} = {value!r}")
        self._program = "\n".join((*lines, "app.main(settings.Settings.read())"))

    def launch(self) -> Process:
        return spawn(sys.executable, "-c", self._program, *self.flags, log=self.log)
