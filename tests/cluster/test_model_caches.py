"""A ModelCache pulls roles' shares to nodes ahead of pods, and pipelines start where it has."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.user import API_VERSION, Condition, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

MODEL: JSON = {"id": "maker/sd3", "revision": "main"}
POOL = "test/pool"


class Cache:
    """The ModelCache `sd3` of a namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.caches = f"/apis/{API_VERSION}/namespaces/{namespace}/modelcaches"
        self.path = f"{self.caches}/sd3"
        self.daemon_sets = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.namespace = namespace

    def make(self, roles: JSON, **spec: Any) -> JSON:
        metadata = {"name": "sd3", "namespace": self.namespace}
        spec = {"model": MODEL, "roles": roles, **spec}
        return self.api.post(
            self.caches, {"apiVersion": API_VERSION, "kind": "ModelCache", "metadata": metadata, "spec": spec}
        )

    def edit(self, **spec: Any) -> JSON:
        return self.api.patch(self.path, {"spec": spec})

    def status(self) -> JSON:
        found: JSON = self.api.get(self.path)["status"]
        return found

    def condition(self, kind: str = "Ready") -> Condition:
        live = self.api.get(self.path)
        for one in live["status"]["conditions"]:
            if one["type"] == kind and one["observedGeneration"] == live["metadata"]["generation"]:
                return Condition(one["status"], one["reason"], one["message"])
        return Condition("Unknown", "", "")

    def until(self, status: str, reason: str, words: str = "") -> None:
        def holds() -> bool:
            found = self.condition()
            return (found.status, found.reason) == (status, reason) and words in found.message

        self.cluster.until(holds, 30, f"the cache is {reason}: {words}")

    def names(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.api.items(self.daemon_sets)}


@pytest.fixture
def cache(cluster: Cluster, namespace: str, everywhere: Operator) -> Cache:
    return Cache(cluster, namespace)


@pytest.fixture
def user(cluster: Cluster, namespace: str, everywhere: Operator) -> User:
    return User(cluster, namespace, "painter")


@pytest.fixture
def pool(cluster: Cluster, namespace: str) -> JSON:
    """Two of the cluster's nodes, by a label of this test's."""
    for number in (1, 3):
        cluster.api.patch(f"/api/v1/nodes/node-{number}", {"metadata": {"labels": {POOL: namespace}}})
    return {"nodeSelector": {POOL: namespace}}


def starting_from_it(**cache: Any) -> JSON:
    model = {"source": "Hub", **MODEL, "cache": {"type": "ModelCache", "modelCacheName": "sd3", **cache}}
    return {"model": model, "transport": {"protocol": "tcp"}}


def test_each_role_is_pulled_to_its_own_nodes_and_the_status_says_how_many_have_it(cache, pool):
    made = cache.make({"denoiser": pool, "encoder": {}})
    assert {one["status"] for one in made["status"]["conditions"]} == {"Unknown"}

    cache.until("True", "Pulled", "encoder on 5 nodes, denoiser on 2 nodes")
    status = cache.status()
    assert {role: one["summary"] for role, one in status["roles"].items()} == {"encoder": "5/5", "denoiser": "2/2"}
    assert status["path"] == f"/var/lib/diffusion-operator/models/{cache.namespace}/sd3"
    assert cache.condition("Reconciling").status == cache.condition("Stalled").status == "False"

    cache.edit(roles={"encoder": None, "decoder": pool})
    cache.until("True", "Pulled", "denoiser on 2 nodes, decoder on 2 nodes")
    assert cache.names() == {"sd3-denoiser", "sd3-decoder"}


def test_workers_go_where_it_is_and_their_folder_is_read_only(cluster, cache, user, pool):
    cache.make(dict.fromkeys(("encoder", "denoiser", "decoder"), pool))
    cache.until("True", "Pulled")
    user.make({**starting_from_it(), "roles": {"denoiser": {"replicas": 4}}})

    def placed() -> list[str]:
        return [pod["spec"].get("nodeName", "") for role in ("encoder", "denoiser") for pod in user.pods(role)]

    cluster.until(lambda: len(placed()) == 5 and all(placed()), 30, "all pods have a node")
    assert set(placed()) <= {"node-1", "node-3"}
    (main,) = user.stateful_set("denoiser")["spec"]["template"]["spec"]["containers"]
    (mount,) = (one for one in main["volumeMounts"] if one["name"] == "models")
    assert mount["readOnly"] is True
    environment = {one["name"]: one.get("value") for one in main["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["DIFFUSION_WORKER_CACHE_WAIT_SECONDS"] == "1800"


def test_a_pipeline_whose_cache_is_missing_or_of_another_model_says_so_until_it_is_mended(cache, user, pool):
    user.make(starting_from_it())
    user.until_condition("ModelReady", "False", "NoModelCache", "there is no ModelCache sd3 in namespace")
    user.until_condition("Stalled", "True", "NoModelCache")

    cache.make({"denoiser": pool}, model={"id": "maker/sd3", "revision": "v2"})
    user.until_condition("ModelReady", "False", "NoModelCache", "its model.revision is v2, that of the pipeline main")
    cache.edit(model={"revision": "main"})
    user.until_condition("ModelReady", "False", "NoModelCache", "does not pull what the encoder loads")
    cache.edit(roles={"encoder": pool, "decoder": pool})
    user.until_condition("ModelReady", "True", "Loaded")


def test_what_keeps_a_node_from_having_it_is_told_by_name(cluster, cache, pool):
    cache.make({"denoiser": {"nodeSelector": {POOL: "nowhere"}}})
    cache.until("False", "NoNodes", "label nodes")
    assert cache.condition("Stalled").status == "True"

    cache.edit(roles={"denoiser": {"nodeSelector": {POOL: cache.namespace}}})
    cache.until("True", "Pulled")
    (pod, _) = cluster.api.items(cache.pods, labelSelector="diffusion-operator.dev/model-cache=sd3")
    failing = {"controlplane.test/exit-code": "7", "controlplane.test/message": "the hub says no"}
    cluster.api.patch(f"{cache.pods}/{pod['metadata']['name']}", {"metadata": {"annotations": failing}})
    cache.until("False", "DownloadFailed", f"denoiser: {pod['metadata']['name']}: the hub says no")
    assert cache.status()["roles"]["denoiser"]["summary"] == "1/2"


def test_a_namespace_that_allows_no_folder_of_the_node_is_named_with_the_rule(cluster, cache, pool):
    level = {"pod-security.kubernetes.io/enforce": "baseline"}
    cluster.api.patch(f"/api/v1/namespaces/{cache.namespace}", {"metadata": {"labels": level}})
    cache.make({"denoiser": pool})

    cache.until("False", "NamespacePodSecurity", "hostPath")
    assert cache.condition("Stalled").status == "True"


def test_what_somebody_else_made_is_left_alone(cluster, cache, pool):
    theirs = {"app": "theirs"}
    template = {"metadata": {"labels": theirs}, "spec": {"containers": [{"name": "x", "image": "x:1"}]}}
    spec = {"selector": {"matchLabels": theirs}, "template": template}
    foreign = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "sd3-denoiser"}, "spec": spec}
    before = cluster.api.post(cache.daemon_sets, foreign)

    cache.make({"denoiser": pool})
    cache.until("False", "NameConflict", "DaemonSet sd3-denoiser exists and does not belong to this ModelCache")
    after = cluster.api.get(f"{cache.daemon_sets}/sd3-denoiser")
    assert after["spec"] == before["spec"]
    assert "ownerReferences" not in after["metadata"]


def test_a_daemon_set_that_is_changed_or_deleted_by_hand_is_put_right(cluster, cache, pool):
    cache.make({"denoiser": pool})
    cache.until("True", "Pulled")
    path = f"{cache.daemon_sets}/sd3-denoiser"
    cluster.api.patch(path, {"spec": {"template": {"spec": {"nodeSelector": {POOL: None, "x": "y"}}}}})

    def selects() -> Any:
        return cluster.api.get(path)["spec"]["template"]["spec"]["nodeSelector"]

    cluster.until(lambda: selects() == pool["nodeSelector"], 30, "the node selector is back")
    before = cluster.api.get(path)["metadata"]["labels"]
    cluster.api.patch(path, {"metadata": {"labels": dict.fromkeys(before)}})
    cluster.until(lambda: cluster.api.get(path)["metadata"].get("labels") == before, 30, "its labels are back")
    uid = cluster.api.get(path)["metadata"]["uid"]
    cluster.api.delete(path)
    cluster.until(
        lambda: any(item["metadata"]["uid"] != uid for item in cluster.api.items(cache.daemon_sets)), 30, "it is back"
    )


def test_nothing_is_written_once_all_is_pulled_and_all_goes_with_it(cluster, cache, pool):
    cache.make({"denoiser": pool, "decoder": {}})
    cache.until("True", "Pulled")
    (pod, *_) = cluster.api.items(cache.pods)
    begun = cluster.audit.mark()
    # Once it looks for the second time, it is through with the first.
    for number in ("1", "2"):
        mark = cluster.audit.mark()
        cluster.api.patch(f"{cache.pods}/{pod['metadata']['name']}", {"metadata": {"labels": {"look": number}}})
        cluster.until(lambda mark=mark: looks(cluster, mark), 30, "the operator looks")  # type: ignore[misc]
    writes = cluster.audit.writes(begun, namespace=cache.namespace)
    assert [entry for entry in writes if entry.resource in ("modelcaches", "daemonsets")] == []

    cluster.api.delete(cache.path)
    cluster.until(lambda: not cache.names(), 30, "its DaemonSets are gone")


def looks(cluster: Cluster, mark: int) -> bool:
    """At a ModelCache, since the mark."""
    return bool(cluster.audit.entries(mark, resource="modelcaches", verb="get"))
