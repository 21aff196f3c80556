"""What keeps pods from running is told by name, in their pipeline's conditions, until it is mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cluster.user import DIGITS, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.examples import EXAMPLES, resource

RDMA = {"protocol": "rdma", "rdma": {"resourceName": "rdma/hca"}}
# For a controller that was refused pods tries again after ever longer pauses.
TRIED_AGAIN_SECONDS = 90


@pytest.fixture
def user(cluster: Cluster, namespace: str, everywhere: Operator) -> User:
    return User(cluster, namespace, "painter")


def failing(**annotations: str) -> JSON:
    """A role whose pods the test cluster makes fail so."""
    marks = {f"controlplane.test/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"podTemplate": {"metadata": {"annotations": marks}}}


@dataclass(frozen=True)
class Failure:
    """How pods fail, and what is told of it."""

    pods: JSON
    told: str
    """In the condition Ready."""
    condition: tuple[str, str, str] | None = None
    """Type, state and reason of the condition that is about this."""
    role: str = "denoiser"
    ready: str = "RolesNotReady"


def last_words(error: str) -> str:
    """The end of a worker's log, as Kubernetes keeps it."""
    return '{"event": "starting"}\n' + json.dumps({"event": "failed", "error": error}) + "\n"


FAILURES = {
    "an image that is not there": Failure(
        failing(waiting="ImagePullBackOff", message='Back-off pulling image "w:9": ErrImagePull: not found'),
        "denoiser 0 of 1 ready: 1 pod ImagePullBackOff (painter-denoiser-0): main: image",
    ),
    "an image's name that is none": Failure(
        failing(waiting="InvalidImageName"),
        "1 pod InvalidImageName (painter-denoiser-0)",
    ),
    "a secret that is not there": Failure(
        failing(waiting="CreateContainerConfigError", message='secret "hub" not found'),
        'CreateContainerConfigError (painter-denoiser-0): main can\'t be configured: secret "hub" not found',
    ),
    "a process that ends again and again": Failure(
        failing(exit_code="1", message="Segmentation fault in libfoo"),
        "1 pod CrashLoopBackOff (painter-denoiser-0): main ended with exit code 1: Segmentation fault in libfoo",
    ),
    "too little memory": Failure(
        failing(exit_code="137", exit_reason="OOMKilled"),
        "1 pod OOMKilled (painter-denoiser-0): main was killed because its node ran out of memory",
    ),
    "a model that can't be loaded": Failure(
        failing(exit_code="3", message=last_words("model a/b has no component vae")),
        "1 pod ModelFailed (painter-denoiser-0): model a/b has no component vae",
        ("ModelReady", "False", "ModelFailed"),
    ),
    "a disk that is full": Failure(
        failing(exit_code="3", message=last_words("No space left on device")),
        "1 pod NoSpace (painter-denoiser-0)",
        ("ModelReady", "False", "NoSpace"),
    ),
    "a worker of another version than the router": Failure(
        failing(exit_code="4", message=last_words("the router speaks version 2")),
        "1 pod Incompatible (painter-denoiser-0): the router speaks version 2",
        ("PeersRegistered", "False", "Incompatible"),
    ),
    "a network that can't be used": Failure(
        failing(exit_code="5", message=last_words("port range 15000 to 17000 is taken")),
        "1 pod TransportFailed (painter-denoiser-0): port range 15000 to 17000 is taken",
        ("TransportReady", "False", "TransportFailed"),
    ),
    "a step that stood still": Failure(
        failing(exit_code="6", message=last_words("forward (Net 4x8, 2 at once) stands still for 61 s (task t)")),
        "1 pod Stalled (painter-denoiser-0): forward (Net 4x8, 2 at once) stands still for 61 s (task t)",
    ),
    "no RDMA device": Failure(
        failing(exit_code="5", message=last_words("no usable RDMA device: mlx5_0 can't be opened")),
        "no usable RDMA device: mlx5_0 can't be opened",
        ("TransportReady", "False", "NoDevice"),
    ),
    "a router that ends again and again": Failure(
        failing(exit_code="1", message="address in use"),
        "router 0 of 1 ready: 1 pod CrashLoopBackOff (painter-router-0): main ended with exit code 1: address in use",
        ("RouterReady", "False", "RouterNotReady"),
        role="router",
        ready="RouterNotReady",
    ),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_pods_that_fail_are_told_of_by_cause_until_they_are_mended(failure: Failure, user: User) -> None:
    user.make(roles={failure.role: failure.pods})
    user.until_condition("Ready", "False", failure.ready, failure.told)
    assert failure.told in f"{failure.role} 0 of 1 ready: {user.status()['roles'][failure.role]['message']}"
    assert user.columns()["REASON"] == failure.ready
    if failure.condition is not None:
        user.until_condition(*failure.condition)
    # As one does who names another image, or another model: these pods are replaced.
    user.edit(roles={failure.role: {"podTemplate": None}})
    user.until_ready()
    assert "message" not in user.status()["roles"][failure.role]
    if failure.condition is not None:
        assert user.condition(failure.condition[0]).reason != failure.condition[2]


def test_one_of_many_pods_that_fails_later_is_told_of(user: User) -> None:
    user.make(roles={"denoiser": {"replicas": 3}})
    user.until_ready()
    pod = f"{user.core}/pods/painter-denoiser-1"
    user.api.patch(pod, {"metadata": {"annotations": {"controlplane.test/exit-code": "139"}}})
    words = "denoiser 2 of 3 ready: 1 pod CrashLoopBackOff (painter-denoiser-1): main was killed by signal 11"
    user.until_condition("Ready", "False", "RolesNotReady", words)
    user.until_condition("Available", "True", "Available")
    user.api.patch(pod, {"metadata": {"annotations": {"controlplane.test/exit-code": None}}})
    user.until_ready()


class TestUnschedulable:
    def test_gpus_that_no_node_has(self, user: User) -> None:
        user.make(roles={"denoiser": {"replicas": 2, "gpus": 1, "gpuResourceName": "amd.com/gpu"}})
        words = "denoiser: 2 pods Unschedulable: 0/5 nodes are available: 5 Insufficient amd.com/gpu"
        user.until_condition("Schedulable", "False", "InsufficientResource", words)
        user.until_condition("Ready", "False", "RolesNotReady", "5 Insufficient amd.com/gpu")
        user.edit(roles={"denoiser": {"gpuResourceName": None}})
        user.until_ready()
        user.until_condition("Schedulable", "True", "NoneUnschedulable")

    def test_an_rdma_resource_that_has_another_name_here(self, user: User) -> None:
        user.make(transport={"protocol": "rdma", "rdma": {"resourceName": "rdma/hca_shared"}})
        words = "no node offers rdma/hca_shared, they offer rdma/hca: mend spec.transport.rdma.resourceName"
        user.until_condition("Schedulable", "False", "InsufficientResource", words)
        user.until_condition("Ready", "False", "RolesNotReady", words)
        user.edit(transport={"rdma": {"resourceName": "rdma/hca"}})
        user.until_ready()

    def test_more_rdma_devices_than_a_node_has(self, user: User) -> None:
        user.make(transport={"protocol": "rdma", "rdma": {"resourceName": "rdma/hca", "count": 9}})
        found = user.until_condition("Schedulable", "False", "InsufficientResource", "5 Insufficient rdma/hca")
        assert "no node offers" not in found.message
        user.edit(transport={"rdma": {"count": 1}})
        user.until_ready()

    def test_nodes_that_are_not_labelled(self, user: User) -> None:
        user.make(roles={"decoder": {"nodeSelector": {"disk": "fast"}}})
        words = "decoder: 1 pod Unschedulable: 0/5 nodes are available: 5 node(s) didn't match Pod's node affinity"
        user.until_condition("Schedulable", "False", "Unschedulable", words)
        user.edit(roles={"decoder": {"nodeSelector": None}})
        user.until_ready()


class TestRefused:
    """By the API server, so that there is no pod to look at."""

    @pytest.fixture
    def restricted(self, user: User) -> Iterator[User]:
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        user.api.patch(f"/api/v1/namespaces/{user.namespace}", label)
        yield user

    def test_pods_that_lock_memory_are_refused_by_a_restricted_namespace(self, restricted: User) -> None:
        restricted.make(transport=RDMA)
        found = restricted.until_condition("Schedulable", "False", "NamespacePodSecurity", "violates PodSecurity")
        assert "IPC_LOCK" in found.message
        restricted.until_condition("Ready", "False", "RolesNotReady", "1 pod refused, NamespacePodSecurity")
        # One of the two remedies that the message names.
        assert "spec.transport.rdma.ipcLock" in found.message
        restricted.edit(transport={"rdma": {"ipcLock": "Never"}})
        restricted.until_ready()
        restricted.until_condition("Schedulable", "True", "NoneUnschedulable")

    def test_pods_are_there_once_the_namespace_allows_them(self, restricted: User) -> None:
        restricted.make(transport=RDMA)
        restricted.until_condition("Schedulable", "False", "NamespacePodSecurity")
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}
        restricted.api.patch(f"/api/v1/namespaces/{restricted.namespace}", label)
        restricted.until_ready(TRIED_AGAIN_SECONDS)

    def test_a_pipeline_over_tcp_passes_a_restricted_namespace(self, restricted: User) -> None:
        files = [file for file in EXAMPLES.glob("digits*.yaml") if "shm" not in file.name]
        users = [User(restricted.cluster, restricted.namespace, file.stem) for file in files]
        for user, file in zip(users, files, strict=True):
            user.make(resource(file.stem)["spec"])
        restricted.make({**DIGITS, "networkPolicy": {"mode": "Isolate"}})
        for user in (*users, restricted):
            user.until_ready()

    def test_pods_above_the_quota_are_refused_until_it_is_raised(self, user: User) -> None:
        quota = f"{user.core}/resourcequotas"
        user.api.post(quota, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "4"}}})
        user.cluster.until(lambda: user.api.get(f"{quota}/few").get("status", {}).get("hard"), 30, "it is counted")
        user.make()
        user.until_ready()
        user.edit(roles={"denoiser": {"replicas": 3}})
        words = "denoiser: 2 pods refused, QuotaExceeded: exceeded quota: few"
        found = user.until_condition("Schedulable", "False", "QuotaExceeded", words)
        assert "raise the namespace's ResourceQuota" in found.message
        user.until_condition("Ready", "False", "RolesNotReady", "denoiser 1 of 3 ready: 2 pods refused")
        assert "2 pods refused" in user.status()["roles"]["denoiser"]["message"]
        user.api.patch(f"{quota}/few", {"spec": {"hard": {"pods": "9"}}})
        user.until_condition("Ready", "True", "Ready", seconds=TRIED_AGAIN_SECONDS)
        user.until_condition("Schedulable", "True", "NoneUnschedulable")
