"""The chart as its user installs, upgrades and uninstalls it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster, ClusterError

CHART = Path(__file__).parents[3] / "charts/diffusion-operator"
NAME = "diffusion"
FULL_NAME = "diffusion-diffusion-operator"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
# Written by the cluster itself, and by nobody in particular.
_OF_THE_CLUSTER = {
    "events",
    "events.events.k8s.io",
    "componentstatuses",
    "nodes",
    "leases.coordination.k8s.io",
    "apiservices.apiregistration.k8s.io",
}


class Release:
    """Of one name in one namespace, installed or not."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._values = folder / "values.yaml"

    def install(self, values: Mapping[str, Any] | None = None) -> str:
        return self._helm("install", NAME, CHART, *self._given(values))

    def upgrade(self, values: Mapping[str, Any] | None = None) -> str:
        return self._helm("upgrade", NAME, CHART, *self._given(values))

    def uninstall(self) -> str:
        return self._helm("uninstall", NAME, "--wait", "--timeout=30s")

    def test(self) -> str:
        return self._helm("test", NAME, "--timeout=60s", "--logs=false")

    def installed(self) -> list[JSON]:
        """What helm made, without hooks."""
        return [item for item in yaml.safe_load_all(self._helm("get", "manifest", NAME)) if item]

    def checking(self) -> str:
        """What the pod of `helm test` runs."""
        hooks = yaml.safe_load_all(self._helm("get", "hooks", NAME))
        (pod,) = (hook for hook in hooks if hook["kind"] == "Pod")
        (container,) = pod["spec"]["containers"]
        (script,) = container["args"]
        return str(script)

    def manifest(self, values: Mapping[str, Any] | None = None) -> str:
        """What `install` would make in this cluster, without hooks."""
        text = self._helm("install", NAME, CHART, "--dry-run=server", "--output=yaml", *self._given(values, wait=False))
        manifest: str = yaml.safe_load(text)["manifest"]
        return manifest

    def deployment(self) -> JSON:
        return self.cluster.api.get(f"{DEPLOYMENTS.format(self.namespace)}/{FULL_NAME}")

    def flags(self) -> list[str]:
        """Of the installed operator, but for those that a process of the test has of its own."""
        (container,) = self.deployment()["spec"]["template"]["spec"]["containers"]
        return [flag for flag in container["args"] if not flag.startswith(("--http-port", "--log-format"))]

    def kubeconfig(self, account: str = FULL_NAME) -> Path:
        """By which a process is what a pod with this ServiceAccount would be."""
        return self.cluster.kubeconfig_of_account(self.namespace, account)

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{FULL_NAME}"

    def _given(self, values: Mapping[str, Any] | None, *, wait: bool = True) -> Iterator[str | Path]:
        self._values.write_text(yaml.safe_dump(dict(values or {})))
        yield from ("--values", self._values)
        if wait:
            yield from ("--wait", "--timeout=60s")

    def _helm(self, *arguments: str | Path) -> str:
        return self.cluster.helm(*arguments, "--namespace", self.namespace)


def everything(cluster: Cluster) -> set[str]:
    """Every object of every kind that the API server can list: "kind namespace/name"."""
    kinds = cluster.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    wanted = ",".join(sorted(set(kinds) - _OF_THE_CLUSTER))
    template = '{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
    return set(cluster.kubectl("get", wanted, "--all-namespaces", "-o", f"jsonpath={template}").splitlines())


def until_left(cluster: Cluster, wanted: set[str], seconds: float = 60) -> None:
    """Waits until there are these objects and no others; says which are too many or missing if not."""
    try:
        cluster.until(lambda: everything(cluster) == wanted, seconds, "no other objects are there")
    except ClusterError as late:
        late.add_note("\n".join(sorted(everything(cluster) ^ wanted)))
        raise


def until_collected(cluster: Cluster) -> None:
    """Waits until the garbage collector knows pipelines: it looks for new kinds only every 30 s.

    A definition that comes and goes in between leaves the children of its objects behind.
    """
    watch = re.compile(r'^apiserver_longrunning_requests{.*resource="diffusionpipelines".*verb="WATCH".*} [1-9]', re.M)
    cluster.until(lambda: watch.search(cluster.kubectl("get", "--raw", "/metrics")), 90, "pipelines are watched")
