"""A pipeline whose pods really run: what its status, its router's registry, its pods' metrics and logs say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any, Self

import httpx
from grpc import RpcError

from diffusion_operator.api.isolation import PROMETHEUS
from diffusionpipeline.process.addresses import host_port
from diffusionpipeline.v1 import registry_pb2
from testbed import pipelines
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.pipelines import GROUP, Pipelines
from testbed.controlplane.pods import is_ready
from testbed.nodes.cluster import NodeCluster

HTTP_PORT = 8000
GRPC_PORT = 50051
HEALTH_PORT = 8080
MODEL_ROLES = ("encoder", "denoiser", "decoder")
# A cold start: pods are scheduled, started, import torch beside each other on few cores, load, register.
READY_SECONDS = 180.0


def two_of_each(document: JSON, otherwise: str) -> None:
    """Two workers of each role, one on each of two nodes; `otherwise` is what becomes of one for which that can't be:
    DoNotSchedule or ScheduleAnyway."""
    apart = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": otherwise}
    for role in MODEL_ROLES:
        document["spec"]["roles"][role] |= {"replicas": 2, "topologySpreadConstraints": [apart]}
    # Clients of a load ask for the same again and again, and encoders are to have work.
    document["spec"]["roles"]["encoder"]["cacheShare"] = 0


class Deployed:
    """One pipeline of a namespace. Its pods are asked at their own addresses, which the test's machine can reach."""

    def __init__(self, cluster: NodeCluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.resources = Pipelines(cluster.api, namespace)

    @classmethod
    def create(cls, cluster: NodeCluster, namespace: str, document: JSON) -> Self:
        """Makes the pipeline of this resource, and waits for nothing. Its policies let this machine ask its pods."""
        found = cls(cluster, namespace, document["metadata"]["name"])
        machine = [{"ipBlock": {"cidr": str(ip_network(address))}} for address in cluster.addresses]
        let_in = {"grpcFrom": machine, "metricsFrom": [PROMETHEUS, *machine]}
        policy = let_in | document["spec"].get("networkPolicy", {})
        found.resources.create({**document, "spec": {**document["spec"], "networkPolicy": policy}})
        return found

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Raises with the pipeline's conditions and pods if it does not come true."""
        try:
            self.cluster.until(condition, seconds, what)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.describe()}") from error

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Ready by its status, about the latest generation of the resource."""
        self.until(self.is_ready, seconds, f"{self.name} is Ready")

    def is_ready(self) -> bool:
        live = self.resources.get(self.name)
        ready = self.resources.condition(self.name, "Ready")
        return (ready.get("status"), ready.get("observedGeneration")) == ("True", live["metadata"]["generation"])

    def edit(self, **spec: Any) -> None:
        self.resources.edit(self.name, **spec)

    def scale(self, role: str, replicas: int) -> None:
        self.edit(roles={role: {"replicas": replicas}})

    # Pods

    def pods(self, role: str = "") -> list[JSON]:
        """Those that are not being deleted, in the order of their names."""
        labels = f"{GROUP}/pipeline={self.name}" + (f",{GROUP}/role={role}" if role else "")
        found = self.cluster.api.items(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=labels)
        living = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(living, key=lambda pod: str(pod["metadata"]["name"]))

    def workers(self, node: str = "") -> list[JSON]:
        """The pods of the model's roles that are not being deleted; with `node`, those on it."""
        pods = [pod for role in MODEL_ROLES for pod in self.pods(role)]
        return [pod for pod in pods if node in ("", pod["spec"].get("nodeName"))]

    def pod(self, name: str) -> JSON:
        return self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def delete_pod(self, name: str) -> None:
        self.cluster.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def uid(self, name: str) -> str:
        """Of the pod that has this name now; empty while there is none."""
        try:
            return str(self.pod(name)["metadata"]["uid"])
        except Refused:
            return ""

    def pod_ready(self, name: str, other_than: str = "") -> bool:
        """Whether there is a ready pod of this name whose uid is not `other_than`."""
        try:
            pod = self.pod(name)
        except Refused:
            return False
        return pod["metadata"]["uid"] != other_than and is_ready(pod)

    def logs(self, pod: str, *, previous: bool = False) -> list[JSON]:
        """Its lines, which are JSON, with the time at which they were written as `timestamp` (ISO, UTC)."""
        more = ["--previous"] if previous else []
        text = self.cluster.kubectl("logs", pod, "--namespace", self.namespace, "--container=main", *more)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def metric(self, pod: str, name: str, **labels: str) -> float:
        """The sum over all series of this name that have these labels, as the pod says now."""
        router = pod == self.router_pod
        address = host_port(self.pod(pod)["status"]["podIP"], HTTP_PORT if router else HEALTH_PORT)
        return pipelines.metric(f"http://{address}", name, **labels)

    # Router

    @property
    def router_pod(self) -> str:
        return f"{self.name}-router-0"

    def router_address(self) -> str:
        """Of its pod, at this moment. Raises Refused without a pod, httpx.ConnectError while it has no address."""
        address = self.pod(self.router_pod)["status"].get("podIP")
        if not address:
            raise httpx.ConnectError(f"pod {self.router_pod} has no address yet")
        return str(address)

    def url(self) -> str:
        return f"http://{host_port(self.router_address(), HTTP_PORT)}"

    def peers(self) -> list[registry_pb2.Peer]:
        return pipelines.registered(host_port(self.router_address(), GRPC_PORT))

    def at_rest(self) -> bool:
        """No peer owns a task, keeps an output or has a slot in use."""
        with contextlib.suppress(RpcError):
            return pipelines.idle(self.peers())
        return False

    def describe(self) -> str:
        """For a person who reads why a test failed."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        try:
            status = self.resources.get(self.name).get("status", {})
        except (Refused, httpx.TransportError) as error:
            yield f"{self.name}: {error}"
            return
        for condition in status.get("conditions", []):
            yield f"{condition['type']}={condition['status']} {condition['reason']}: {condition['message']}"
        yield self.cluster.kubectl("get", "pods", "--namespace", self.namespace, "--output=wide")
        for pod in self.pods():
            name = pod["metadata"]["name"]
            with contextlib.suppress(Exception):
                yield f"{name}: " + self.cluster.kubectl("logs", name, "--namespace", self.namespace, "--tail=8")
