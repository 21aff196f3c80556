"""The way of RDMA devices from a node's device plugin to a worker, and what is told where there is none to be had.

The nodes' plugin hands out devices that do not exist, so that workers which have been given some still find no HCA:
what they do then is what `fallback` says. That bytes travel over verbs is shown in `tests/rdma`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from grpc import RpcError

from testbed.controlplane.client import JSON
from testbed.deployment.load import Request, draw, requests
from testbed.deployment.pipeline import MODEL_ROLES, Deployed
from testbed.nodes.cluster import NodeCluster

HCA = "rdma/hca"
ABSENT = "rdma/hca_of_another_cluster"
NODES = ("node-1", "node-2")
DEVICES_OF_A_NODE = 8
COUNT = 2
SEVEN = requests()[0]
# Of Linux: the one capability that a worker needs to register more memory than its container may lock.
CAP_IPC_LOCK = 14
# A worker's exit code.
TRANSPORT_FAILED = 5
TOLD_SECONDS = 90.0
# Each start of a worker imports torch, and between starts the kubelet pauses: 10 s, 20 s, ...
RESTARTED_SECONDS = 300.0

_names = (f"rdma-{number}" for number in itertools.count(1))


def pipeline(name: str, roles: JSON | None = None, **transport: Any) -> JSON:
    """The bundled model over Mooncake: with devices, unless `transport` says otherwise."""
    given = {"protocol": "rdma", "rdma": {"resourceName": HCA}, **transport}
    document: JSON = yaml.safe_load(f"""
        apiVersion: diffusion-operator.dev/v1alpha1
        kind: DiffusionPipeline
        metadata: {{name: {name}}}
        spec:
          model: {{source: Bundled, dtype: float32}}
          transport: {{backend: mooncake, poolSize: 64Mi}}
    """)
    document["spec"]["transport"] |= {key: value for key, value in given.items() if value is not None}
    document["spec"]["roles"] = roles or {role: {"threads": 1} for role in MODEL_ROLES}
    return document


# All roles in one process: a single pod shows as much where no worker gets as far as to serve.
COLOCATED: JSON = {
    "encoder": {"colocateWith": "denoiser"},
    "denoiser": {"threads": 1},
    "decoder": {"colocateWith": "denoiser"},
}


@pytest.fixture(scope="module")
def place(cluster: NodeCluster, operator: None) -> Iterator[str]:
    """A namespace that says nothing of PodSecurity: workers with devices are outside all but its level privileged."""
    name = "with-devices"
    cluster.add_namespace(name)
    yield name
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def make(cluster: NodeCluster, place: str) -> Iterator[Callable[..., Deployed]]:
    """Makes a pipeline, which is gone, pods and all, when the test ends."""
    made: list[Deployed] = []

    def create(roles: JSON | None = None, **transport: Any) -> Deployed:
        found = Deployed.create(cluster, place, pipeline(next(_names), roles, **transport))
        made.append(found)
        return found

    yield create
    for each in made:
        each.resources.delete(each.name)
    for each in made:
        cluster.until(lambda each=each: not each.pods(), 120, f"the pods of {each.name} are gone")  # type: ignore[misc]


@pytest.fixture(scope="module")
def allowed(cluster: NodeCluster, place: str) -> Deployed:
    """A pipeline that asks for RDMA, gets its devices, and may fall back."""
    asked = pipeline("allowed", fallback="Allow", rdma={"resourceName": HCA, "count": COUNT})
    found = Deployed.create(cluster, place, asked)
    found.wait_ready()
    return found


def told(pipeline: Deployed, kind: str, status: str, reason: str, *texts: str, seconds: float = TOLD_SECONDS) -> str:
    """Waits for this condition, with these texts in its message, and returns the message."""

    def says() -> bool:
        found = pipeline.resources.condition(pipeline.name, kind)
        return (found.get("status"), found.get("reason")) == (status, reason) and all(
            text in found["message"] for text in texts
        )

    pipeline.until(says, seconds, f"{kind}={status} {reason} with {texts}")
    return str(pipeline.resources.condition(pipeline.name, kind)["message"])


def devices_of(pipeline: Deployed, pod: str) -> list[str]:
    """As the device plugin told the container, in a variable."""
    found = pipeline.cluster.exec(pod, "printenv", "TEST_DEVICES_RDMA_HCA", namespace=pipeline.namespace)
    return found.strip().split(",")


def allocated(cluster: NodeCluster, node: str) -> int:
    """How many of a node's devices its pods have, as `kubectl describe node` adds them up."""
    table = cluster.kubectl("describe", "node", node).partition("Allocated resources:")[2]
    (line,) = (line for line in table.splitlines() if line.split()[:1] == [HCA])
    requested, limited = line.split()[1:]
    assert requested == limited
    return int(requested)


# Given


def test_workers_get_the_devices_that_they_ask_for_each_its_own(cluster: NodeCluster, allowed: Deployed) -> None:
    given: dict[str, list[str]] = {node: [] for node in NODES}
    for role in MODEL_ROLES:
        (pod,) = allowed.pods(role)
        found = devices_of(allowed, pod["metadata"]["name"])
        assert len(found) == COUNT
        given[pod["spec"]["nodeName"]] += found
    for node, devices in given.items():
        assert len(set(devices)) == len(devices), f"{node} gave a device twice: {devices}"
        assert allocated(cluster, node) == len(devices)
    (router,) = allowed.pods("router")
    assert HCA not in json.dumps(router["spec"])


def test_a_worker_with_devices_may_lock_memory_and_nothing_else(cluster: NodeCluster, allowed: Deployed) -> None:
    for role in MODEL_ROLES:
        status = cluster.exec(f"allowed-{role}-0", "cat", "/proc/1/status", namespace=allowed.namespace)
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(values["CapEff"], 16) == 1 << CAP_IPC_LOCK
        assert int(values["CapBnd"], 16) == 1 << CAP_IPC_LOCK
        assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")


def test_with_fallback_allow_it_runs_on_tcp_and_says_so(allowed: Deployed, pictures: dict[Request, bytes]) -> None:
    assert draw(allowed, SEVEN) == pictures[SEVEN]
    assert {peer.pool.mode for peer in allowed.peers()} == {"mooncake-tcp"}
    told(allowed, "TransportReady", "False", "FallbackToTCP", "peers use tcp, not rdma")
    told(allowed, "Ready", "True", "Ready", "peers use tcp, not rdma")
    for role in MODEL_ROLES:
        events = {line["event"]: line for line in allowed.logs(f"allowed-{role}-0")}
        assert "no RDMA device" in events["rdma_fell_back_to_tcp"]["found"]


# Not to be had


def test_more_devices_than_a_node_has_leave_workers_pending_until_fewer_are_asked_for(
    make: Callable[..., Deployed],
) -> None:
    more = make(COLOCATED, rdma={"resourceName": HCA, "count": DEVICES_OF_A_NODE + 1})
    told(more, "Schedulable", "False", "InsufficientResource", f"Insufficient {HCA}")
    told(more, "Ready", "False", "RolesNotReady", f"Insufficient {HCA}")
    assert {pod["status"]["phase"] for pod in more.pods("denoiser")} == {"Pending"}
    more.edit(transport={"rdma": {"count": DEVICES_OF_A_NODE // 2}})
    told(more, "Schedulable", "True", "NoneUnschedulable")
    more.wait_ready()


def test_a_resource_that_no_node_has_is_named_beside_those_that_nodes_have(make: Callable[..., Deployed]) -> None:
    lost = make(COLOCATED, rdma={"resourceName": ABSENT})
    message = told(lost, "Schedulable", "False", "InsufficientResource", f"Insufficient {ABSENT}")
    assert HCA in message.replace(ABSENT, ""), message
    assert {pod["status"]["phase"] for pod in lost.pods("denoiser")} == {"Pending"}


def test_broken_devices_are_not_given_away_and_mended_ones_are(
    cluster: NodeCluster, make: Callable[..., Deployed], allowed: Deployed
) -> None:
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in allowed.pods()}
    try:
        for node in NODES:
            cluster.break_devices(node, HCA, range(DEVICES_OF_A_NODE))
        for node in NODES:
            cluster.until(lambda node=node: healthy(cluster, node) == 0, 30, f"no device of {node} is healthy")  # type: ignore[misc]
        broken = make(COLOCATED)
        told(broken, "Schedulable", "False", "InsufficientResource", f"Insufficient {HCA}")
        assert {pod["status"]["phase"] for pod in broken.pods("denoiser")} == {"Pending"}
    finally:
        for node in NODES:
            cluster.mend_devices(node, HCA, range(DEVICES_OF_A_NODE))
    told(broken, "Schedulable", "True", "NoneUnschedulable")
    broken.wait_ready()
    assert len(devices_of(broken, f"{broken.name}-denoiser-0")) == 1
    # Who has a device keeps it, and goes on.
    assert {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in allowed.pods()} == before
    assert allowed.is_ready()


def healthy(cluster: NodeCluster, node: str) -> int:
    return int(cluster.node(node)["status"]["allocatable"][HCA])


# Forbidden to fall back


def test_with_fallback_deny_none_ever_becomes_ready_and_each_says_why(make: Callable[..., Deployed]) -> None:
    ways: list[JSON] = [{"protocol": "rdma"}, {"protocol": "auto"}, {"protocol": "auto", "rdma": None}]
    denied = [make(COLOCATED, fallback="Deny", **way) for way in ways]
    why = "no usable RDMA device, and spec.transport.fallback is Deny"
    since = {}
    for each in denied:
        told(each, "TransportReady", "False", "NoDevice", "denoiser", why, seconds=RESTARTED_SECONDS)
        told(each, "Ready", "False", "RolesNotReady", why, seconds=RESTARTED_SECONDS)
        since[each.name] = each.resources.condition(each.name, "Ready")["lastTransitionTime"]

    def tried_again(each: Deployed) -> bool:
        """Looks once more that it is not ready and that no worker of it is known to the router, by whatever network."""
        assert not each.is_ready()
        try:
            assert each.peers() == []
        except RpcError:  # the router has not answered in time, and is asked again
            return False
        main = main_container(each)
        assert not main["ready"]
        return bool(main["restartCount"] >= 2 and main.get("lastState", {}).get("terminated"))

    for each in denied:
        each.until(lambda each=each: tried_again(each), RESTARTED_SECONDS, f"{each.name} tried three times")  # type: ignore[misc]
    for each in denied:
        assert tried_again(each)
        assert main_container(each)["lastState"]["terminated"]["exitCode"] == TRANSPORT_FAILED
        told(each, "TransportReady", "False", "NoDevice", why)
        # Nor was it in between.
        assert each.resources.condition(each.name, "Ready")["lastTransitionTime"] == since[each.name]


def main_container(pipeline: Deployed) -> JSON:
    """Of the denoiser, as its pod's status has it."""
    status: JSON = pipeline.pod(f"{pipeline.name}-denoiser-0")["status"]["containerStatuses"][0]
    return status


# PodSecurity


def test_where_podsecurity_is_restricted_rdma_is_refused_with_its_reason_until_tcp_is_asked_for(
    deploy: Callable[..., Deployed],
) -> None:
    refused = deploy(pipeline("refused", COLOCATED), ready=False)
    told(refused, "Schedulable", "False", "NamespacePodSecurity", "restricted", "IPC_LOCK")
    told(refused, "Ready", "False", "RolesNotReady", "restricted", "IPC_LOCK")
    assert refused.pods("denoiser") == []
    # The router needs no devices, and is let in.
    refused.until(lambda: refused.pod_ready("refused-router-0"), TOLD_SECONDS, "the router is ready")
    refused.edit(transport={"protocol": "tcp", "rdma": None})
    refused.wait_ready()
    told(refused, "TransportReady", "True", "InUse", "tcp")
