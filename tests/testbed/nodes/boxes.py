"""Small pods for tests of what carries them: a shell, curl and a web server that tells the pod's name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import ClusterError
from testbed.controlplane.pods import is_ready
from testbed.nodes.cluster import NodeCluster
from testbed.nodes.images import BOX_IMAGE

PORT = 8000
SERVE = f"mkdir /tmp/www; hostname >/tmp/www/name; echo serving; exec httpd -f -p {PORT} -h /tmp/www"


def spec(script: str = SERVE, *, node: str = "", container: Mapping[str, Any] | None = None, **more: Any) -> JSON:
    """Of a pod that runs a shell script."""
    main = {"name": "main", "image": BOX_IMAGE, "command": ["sh", "-c", script], **(container or {})}
    place = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    # A shell that is a container's first process ignores SIGTERM if it has no trap.
    return {"containers": [main], "terminationGracePeriodSeconds": 1, **place, **more}


class Boxes:
    """The pods of one namespace."""

    def __init__(self, cluster: NodeCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}"

    def make(self, name: str, script: str = SERVE, **how: Any) -> None:
        body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec(script, **how)}
        self.cluster.api.post(f"{self.path}/pods", body)

    def get(self, name: str) -> JSON:
        return self.cluster.api.get(f"{self.path}/pods/{name}")

    def conditions(self, name: str) -> dict[str, JSON]:
        return {condition["type"]: condition for condition in self.get(name)["status"].get("conditions", [])}

    def is_ready(self, name: str) -> bool:
        return is_ready(self.get(name))

    def wait_ready(self, *names: str, seconds: float = 30) -> None:
        for name in names:
            self.cluster.until(lambda name=name: self.is_ready(name), seconds, f"{name} is ready")  # type: ignore[misc]

    def main(self, name: str) -> JSON:
        """The status of its container; empty before it has one."""
        return next(iter(self.get(name)["status"].get("containerStatuses", [])), {})

    def exec(self, name: str, *command: str) -> str:
        return self.cluster.exec(name, *command, namespace=self.namespace)

    def says(self, name: str, *command: str) -> str:
        """What a command in a pod prints; empty if it fails."""
        with contextlib.suppress(ClusterError):
            return self.exec(name, *command).strip()
        return ""

    def fetch(self, name: str, url: str) -> str:
        """What a pod gets from an address within a second; empty if it gets nothing."""
        return self.says(name, "curl", "--silent", "--fail", "--max-time", "1", url)

    def delete(self, name: str, seconds: float = 30) -> None:
        self.cluster.api.delete(f"{self.path}/pods/{name}")
        self.wait_gone(name, seconds)

    def wait_gone(self, name: str, seconds: float = 30) -> None:
        path = f"{self.path}/pods/{name}"
        self.cluster.until(lambda: not self.cluster.api.exists(path), seconds, f"{name} is gone")
