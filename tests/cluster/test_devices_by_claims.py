"""Devices that pods claim from drivers (dynamic resource allocation): the scheduler and the controllers are the real
ones, and the drivers are played, by the slices that they would publish of their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.user import User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

DRA = "/apis/resource.k8s.io/v1"
PCI_ROOT = "resource.kubernetes.io/pcieRoot"
# The controllers and the scheduler try again after pauses that grow.
CLAIM_SECONDS = 90


@dataclass
class Drivers:
    """Of GPUs and of adapters, for one namespace alone."""

    cluster: Cluster
    namespace: str

    def driver(self, kind: str) -> str:
        return f"{kind}.{self.namespace}.test"

    def offer(self, node: str, kind: str, root: str) -> None:
        """One device, in the PCI tree of this root."""
        driver = self.driver(kind)
        self.cluster.api.post(
            f"{DRA}/resourceslices",
            {
                "metadata": {"name": f"{node}-{driver}"},
                "spec": {
                    "driver": driver,
                    "nodeName": node,
                    "pool": {"name": f"{node}-{kind}", "generation": 1, "resourceSliceCount": 1},
                    "devices": [{"name": f"{kind}-0", "attributes": {PCI_ROOT: {"string": root}}}],
                },
            },
        )

    def classes(self) -> None:
        for kind in ("gpu", "adapter"):
            selector = {"cel": {"expression": f'device.driver == "{self.driver(kind)}"'}}
            made = {"metadata": {"name": self.driver(kind)}, "spec": {"selectors": [selector]}}
            self.cluster.api.post(f"{DRA}/deviceclasses", made)

    def template(self, name: str, *kinds: str) -> None:
        """A device of each kind, all of one PCI root."""
        requests = [{"name": kind, "exactly": {"deviceClassName": self.driver(kind)}} for kind in kinds]
        devices: dict[str, Any] = {"requests": requests}
        if len(kinds) > 1:
            devices["constraints"] = [{"requests": list(kinds), "matchAttribute": PCI_ROOT}]
        self.cluster.api.post(
            f"{DRA}/namespaces/{self.namespace}/resourceclaimtemplates",
            {"metadata": {"name": name}, "spec": {"spec": {"devices": devices}}},
        )

    def allocated(self, pod: JSON) -> set[tuple[str, str]]:
        """Kind of device and node of its pool, for the claims of a pod."""
        found = set()
        for status in pod["status"]["resourceClaimStatuses"]:
            claim = self.cluster.api.get(
                f"{DRA}/namespaces/{self.namespace}/resourceclaims/{status['resourceClaimName']}"
            )
            results = claim["status"]["allocation"]["devices"]["results"]
            found |= {(one["request"], one["pool"].rpartition("-")[0]) for one in results}
        return found


@pytest.fixture
def user(cluster: Cluster, namespace: str, everywhere: Operator) -> User:
    return User(cluster, namespace, "painter")


@pytest.fixture
def drivers(cluster: Cluster, namespace: str) -> Iterator[Drivers]:
    drivers = Drivers(cluster, namespace)
    drivers.classes()
    yield drivers
    for path in (f"{DRA}/resourceslices", f"{DRA}/deviceclasses"):
        for one in cluster.api.items(path):
            if namespace in one["metadata"]["name"]:
                cluster.api.delete(f"{path}/{one['metadata']['name']}")


def test_a_gpu_and_the_adapter_beside_it_are_claimed_together_and_the_status_says_why_they_are_not_there(
    user: User, drivers: Drivers
) -> None:
    drivers.template("adapter", "adapter")
    drivers.template("gpu-beside-its-adapter", "gpu", "adapter")
    both = [{"name": "rdma", "resourceClaimTemplateName": "gpu-beside-its-adapter"}]
    user.make(
        {"model": {"source": "Bundled"}},
        transport={"protocol": "rdma", "rdma": {"resourceClaimTemplateName": "adapter"}},
        roles={"denoiser": {"device": "cuda", "resourceClaims": both}},
    )
    user.until_condition("Schedulable", "False", "Unschedulable", "cannot allocate all claims")
    user.until_condition("Ready", "False", "RolesNotReady", "cannot allocate all claims")
    apart, beside, *others = sorted(node["metadata"]["name"] for node in user.api.items("/api/v1/nodes"))
    drivers.offer(apart, "gpu", "pci0000:00")
    drivers.offer(apart, "adapter", "pci0000:80")
    for node in others:
        drivers.offer(node, "adapter", "pci0000:00")
    # The adapters are there, and of GPUs one with no adapter beside it.
    for role in ("encoder", "decoder"):
        user.cluster.until(
            lambda role=role: "nodeName" in user.pods(role)[0]["spec"], CLAIM_SECONDS, f"{role} has a node"
        )
    user.until_condition("Schedulable", "False", "Unschedulable", "denoiser: 1 pod Unschedulable")
    drivers.offer(beside, "gpu", "pci0000:80")
    drivers.offer(beside, "adapter", "pci0000:80")
    user.until_condition("Schedulable", "True", "NoneUnschedulable", seconds=CLAIM_SECONDS)
    (denoiser,) = user.pods("denoiser")
    assert denoiser["spec"]["nodeName"] == beside
    assert drivers.allocated(denoiser) == {("gpu", beside), ("adapter", beside)}
    for role in ("encoder", "decoder"):
        (pod,) = user.pods(role)
        assert drivers.allocated(pod) == {("adapter", pod["spec"]["nodeName"])}
    user.until_ready()


def test_a_template_that_is_not_there_is_told_of(user: User, drivers: Drivers) -> None:
    claims = [{"name": "gpu", "resourceClaimTemplateName": "forgotten"}]
    user.make(roles={"denoiser": {"device": "cuda", "resourceClaims": claims}})
    words = "denoiser: 1 pod Unschedulable: its claim gpu is not made yet of ResourceClaimTemplate forgotten"
    user.until_condition("Schedulable", "False", "Unschedulable", words)
    user.until_condition("Ready", "False", "RolesNotReady", "see that there is one in this namespace")
    drivers.template("forgotten", "gpu")
    for node in user.api.items("/api/v1/nodes"):
        drivers.offer(node["metadata"]["name"], "gpu", "pci0000:00")
    user.until_ready(CLAIM_SECONDS)
