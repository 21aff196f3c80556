"""A VerticalPodAutoscaler for a role: it finds the role's pods, and nobody undoes what it makes of them.

It changes pods, not what they are made of: as they are made (its webhook), for which it evicts them, or while they run
(by their subresource `resize`). Here the test plays it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from cluster.user import ROLES, User
from testbed.controlplane.admission import Patch, changing, until_acts
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

PATHS = {"StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets"} | {
    "DiffusionPipeline": "/apis/diffusion-operator.dev/v1alpha1/namespaces/{}/diffusionpipelines"
}
RECOMMENDED = {"requests": {"cpu": "123m", "memory": "456Mi"}}
RESIZED = {"requests": {"cpu": "234m", "memory": "567Mi"}}


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "painter")


@pytest.fixture
def recommends(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Pods' containers main are made with what is recommended."""

    def change(pod: JSON) -> Patch:
        containers = pod["spec"]["containers"]
        if pod["metadata"].get("resourceVersion"):
            return []
        return [
            {"op": "add", "path": f"/spec/containers/{index}/resources", "value": RECOMMENDED}
            for index, container in enumerate(containers)
            if container["name"] == "main"
        ]

    with changing(cluster, namespace, "vpa", change, group="", resource="pods"):
        probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "main", "image": "example/a:1"}]}}
        path = f"/api/v1/namespaces/{namespace}/pods"
        until_acts(
            cluster, path, probe, lambda made: isinstance(made, dict) and resources(made)["requests"]["cpu"] == "123m"
        )
        yield


def resources(pod: JSON) -> JSON:
    (found,) = (container["resources"] for container in pod["spec"]["containers"] if container["name"] == "main")
    return {"requests": {}, **found}


def topmost(user: User, pod: JSON) -> tuple[str, str]:
    """Kind and name of the controller whose autoscaler changes this pod.

    The topmost that can be scaled, of those that control it: FindTopMostWellKnownOrScalable in
    https://github.com/kubernetes/autoscaler/tree/master/vertical-pod-autoscaler. One that names another as its target
    is without effect, and says ConfigUnsupported.
    """
    item, found = pod, ("", "")
    while owner := next((one for one in item["metadata"].get("ownerReferences", ()) if one.get("controller")), None):
        path = f"{PATHS[owner['kind']].format(user.namespace)}/{owner['name']}"
        item = user.api.get(path)
        if user.api.exists(f"{path}/scale"):
            found = owner["kind"], owner["name"]
    return found


def test_the_pods_of_each_role_are_those_of_a_stateful_set_that_it_can_name(user: User, everywhere: Operator) -> None:
    user.make()
    user.until_ready()
    assert user.api.exists(f"{user.path}/scale")
    for role in ROLES:
        (pod,) = user.pods(role)
        assert topmost(user, pod) == ("StatefulSet", f"painter-{role}")
    # And all go with the pipeline nevertheless.
    user.kubectl("delete", "dpipe/painter")
    user.cluster.until(lambda: not user.api.items(user.stateful_sets), 60, "no StatefulSet is left")


def test_what_it_makes_of_pods_is_undone_by_nobody(
    cluster: Cluster, namespace: str, user: User, recommends: None, operators: Callable[..., Operator]
) -> None:
    own = {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    operator = operators("--resync-seconds=1", "--router-address=127.0.0.1:1")
    user.make(roles={"encoder": {**own, "replicas": 2}, "denoiser": own, "decoder": own})

    def as_recommended() -> bool:
        pods = [pod for role in ROLES for pod in user.pods(role)]
        ready = [seen["readyReplicas"] for seen in user.status().get("roles", {}).values()]
        return sum(ready) == len(pods) == 5 and all(resources(pod) == RECOMMENDED for pod in pods)

    cluster.until(as_recommended, 60, "all pods run, with what is recommended")
    user.until_condition("Reconciled", "True", "Applied")
    before = {role: user.stateful_set(role) for role in ROLES}
    uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for role in ROLES for pod in user.pods(role)}
    mark = cluster.audit.mark()

    # As its updater does, for a recommendation to take effect.
    evicted = "painter-encoder-1"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted, "namespace": namespace}}
    user.api.post(f"{user.core}/pods/{evicted}/eviction", eviction)
    cluster.until(
        lambda: as_recommended() and uids[evicted] not in {pod["metadata"]["uid"] for pod in user.pods("encoder")},
        60,
        "another pod is in its place",
    )
    # Kubernetes has it since 1.33.
    if any(resource["name"] == "pods/resize" for resource in user.api.get("/api/v1")["resources"]):
        resized = f"{user.core}/pods/painter-encoder-0"
        # As a kubelet says that it can do it.
        statuses = [{**one, "resources": RECOMMENDED} for one in user.api.get(resized)["status"]["containerStatuses"]]
        user.api.patch(f"{resized}/status", {"status": {"containerStatuses": statuses}})
        patch = {"spec": {"containers": [{"name": "main", "resources": RESIZED}]}}
        user.kubectl("patch", "pod", "painter-encoder-0", "--subresource=resize", f"--patch={json.dumps(patch)}")
        assert resources(user.api.get(resized)) == RESIZED

    def resyncs() -> int:
        return len(
            cluster.audit.entries(mark, user=f"operator:{namespace}", verb="list", resource="diffusionpipelines")
        )

    seen = resyncs()
    cluster.until(lambda: resyncs() > seen + 3, 60, "all is compared anew, some times")
    operator.kill()
    operator.start()
    seen = resyncs()
    cluster.until(lambda: resyncs() > seen + 3, 60, "and by another operator")

    written = cluster.audit.writes(mark, user=f"operator:{namespace}", resource="statefulsets")
    assert written == []
    for role in ROLES:
        after = user.stateful_set(role)
        assert after["metadata"]["generation"] == before[role]["metadata"]["generation"]
        assert after["spec"] == before[role]["spec"]
    now = {pod["metadata"]["name"]: pod["metadata"]["uid"] for role in ROLES for pod in user.pods(role)}
    assert {name for name, uid in now.items() if uids[name] != uid} == {evicted}
    assert not [event for event in user.events() if event["reason"] == "Reverted"]
    assert user.condition("Reconciled").reason == "Applied"
    encoder = user.status()["roles"]["encoder"]
    assert (encoder["readyReplicas"], encoder["updatedReplicas"]) == (2, 2)
