"""What the other tests here rely on: the parts are Kubernetes' own, what stands in for nodes behaves as nodes do, and
faults and counts are what they claim to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testbed.controlplane.access import allow
from testbed.controlplane.children import Folder
from testbed.controlplane.client import JSON, Client, Refused
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.controlplane.metrics_source import MetricsSource
from testbed.controlplane.proxy import Answer, Call, Cut, Expired, Freeze, Proxy, matching

TESTS = Path(__file__).parents[2]


def stateful_set(name: str, replicas: int = 2, resources: JSON | None = None, **annotations: str) -> JSON:
    marked = {f"controlplane.test/{key.replace('_', '-')}": value for key, value in annotations.items()}
    container = {"name": "main", "image": "registry.test/app:1", "resources": resources or {}}
    template = {"metadata": {"labels": {"app": name}, "annotations": marked}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }


def config_map(name: str) -> JSON:
    return {"metadata": {"name": name}}


class Objects:
    """One namespace's objects."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.api = cluster.api
        self.until = cluster.until
        self.namespace = namespace
        self.stateful_sets = f"/apis/apps/v1/namespaces/{namespace}/statefulsets"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.config_maps = f"/api/v1/namespaces/{namespace}/configmaps"

    def ready(self, name: str) -> int:
        found: int = self.api.get(f"{self.stateful_sets}/{name}")["status"].get("readyReplicas", 0)
        return found

    def container(self, pod: str) -> JSON:
        found: JSON = next(iter(self.api.get(f"{self.pods}/{pod}")["status"].get("containerStatuses", [])), {})
        return found

    def waiting(self, pod: str) -> str:
        found: str = self.container(pod).get("state", {}).get("waiting", {}).get("reason", "")
        return found


@pytest.fixture
def objects(cluster: Cluster, namespace: str) -> Objects:
    return Objects(cluster, namespace)


def test_kubectl_and_helm_agree_with_the_api_server_on_its_version(cluster: Cluster) -> None:
    version = cluster.api.get("/version")["gitVersion"]
    assert f"Server Version: {version}" in cluster.kubectl("version")
    assert 'Version:"v4' in cluster.helm("version")
    assert cluster.helm("list", "--all-namespaces", "--short") == ""


def test_a_stateful_sets_pods_become_ready_on_the_fake_nodes(objects: Objects) -> None:
    objects.api.post(objects.stateful_sets, stateful_set("worker", 3))
    objects.until(lambda: objects.ready("worker") == 3, 30, "3 pods are ready")
    pods = objects.api.items(objects.pods)
    assert {pod["metadata"]["name"] for pod in pods} == {"worker-0", "worker-1", "worker-2"}
    assert all(pod["spec"]["nodeName"].startswith("node-") and pod["status"]["podIP"] for pod in pods)


def test_children_are_collected_when_their_owner_is_deleted(objects: Objects) -> None:
    owner = objects.api.post(objects.config_maps, config_map("owner"))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    child = stateful_set("child")
    child["metadata"]["ownerReferences"] = [reference]
    objects.api.post(objects.stateful_sets, child)
    objects.until(lambda: objects.ready("child") == 2, 30, "the child's pods are ready")
    objects.api.delete(f"{objects.config_maps}/owner")
    objects.until(lambda: not objects.api.items(objects.stateful_sets), 30, "the child is gone")
    objects.until(lambda: not objects.api.items(objects.pods), 30, "its pods are gone")


def test_a_pod_fails_as_its_annotations_say_and_recovers_without_them(objects: Objects) -> None:
    objects.api.post(objects.stateful_sets, stateful_set("pulls", 1, waiting="ImagePullBackOff"))
    objects.api.post(objects.stateful_sets, stateful_set("crashes", 1, exit_code="3", message='{"error": "no model"}'))
    objects.until(lambda: objects.waiting("pulls-0") == "ImagePullBackOff", 30, "the image is missing")
    objects.until(lambda: objects.waiting("crashes-0") == "CrashLoopBackOff", 30, "the container crashed")
    ended = objects.container("crashes-0")["lastState"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, '{"error": "no model"}')

    mended = {"metadata": {"annotations": {"controlplane.test/exit-code": None}}}
    objects.api.patch(f"{objects.pods}/crashes-0", mended)
    objects.until(lambda: objects.ready("crashes") == 1, 30, "the mended pod is ready")
    broken = {"metadata": {"annotations": {"controlplane.test/exit-code": "137"}}}
    objects.api.patch(f"{objects.pods}/crashes-0", broken)
    objects.until(lambda: objects.ready("crashes") == 0, 30, "the broken pod is not ready")


def test_a_pod_that_asks_for_more_than_any_node_has_is_unschedulable(objects: Objects) -> None:
    objects.api.post(objects.stateful_sets, stateful_set("wide", 1, {"limits": {"rdma/hca": 9}}))

    def verdict() -> str:
        conditions = objects.api.get(f"{objects.pods}/wide-0")["status"].get("conditions", [])
        return "".join(c["message"] for c in conditions if c.get("reason") == "Unschedulable")

    objects.until(verdict, 30, "the scheduler said no")
    assert "Insufficient rdma/hca" in verdict()


def test_pod_security_and_quotas_are_enforced(cluster: Cluster, objects: Objects) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.api.patch(f"/api/v1/namespaces/{objects.namespace}", labels)
    pod = {"metadata": {"name": "loose"}, "spec": {"containers": [{"name": "main", "image": "registry.test/app:1"}]}}
    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.api.post(objects.pods, pod)

    quotas = f"/api/v1/namespaces/{objects.namespace}/resourcequotas"
    cluster.api.post(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"count/statefulsets.apps": "0"}}})
    cluster.until(lambda: cluster.api.get(f"{quotas}/none").get("status", {}).get("hard"), 30, "the quota is counted")
    with pytest.raises(Refused, match="exceeded quota"):
        cluster.api.post(objects.stateful_sets, stateful_set("worker"))


def test_a_user_may_do_what_rbac_says_and_no_more(cluster: Cluster, namespace: str) -> None:
    user = f"reader:{namespace}"
    allow(cluster, user, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}], [namespace])
    kubeconfig = cluster.kubeconfig_of(user)
    assert cluster.kubectl("get", "pods", "-n", namespace, "-o", "name", kubeconfig=kubeconfig) == ""
    with pytest.raises(ClusterError, match="forbidden"):
        cluster.kubectl("get", "pods", "-n", "default", kubeconfig=kubeconfig)
    with pytest.raises(ClusterError, match="forbidden"):
        cluster.kubectl("create", "configmap", "a", "-n", namespace, kubeconfig=kubeconfig)


def test_the_audit_log_tells_who_read_and_wrote_what(cluster: Cluster, proxy: Proxy, objects: Objects) -> None:
    user, mark = f"operator:{objects.namespace}", cluster.audit.mark()
    client = cluster.client_of(user, server=proxy.url)
    client.get(objects.config_maps)
    client.post(objects.config_maps, config_map("a"))
    client.post(objects.config_maps, config_map("b"), dryRun="All")
    with pytest.raises(Refused, match="forbidden"):
        client.delete(f"/api/v1/namespaces/{objects.namespace}")
    asked = [(e.verb, e.resource, e.name, e.code) for e in cluster.audit.entries(mark, user=user)]
    assert asked == [
        ("list", "configmaps", "", 200),
        ("create", "configmaps", "a", 201),
        ("create", "configmaps", "b", 201),
        ("delete", "namespaces", objects.namespace, 403),
    ]
    assert [e.verb for e in cluster.audit.writes(mark, user=user)] == ["create", "delete"]


class TestProxy:
    @pytest.fixture
    def client(self, cluster: Cluster, proxy: Proxy, namespace: str) -> Client:
        return cluster.client_of(f"operator:{namespace}", server=proxy.url)

    def test_it_answers_instead_of_the_api_server(self, proxy: Proxy, client: Client, objects: Objects) -> None:
        rule = proxy.rule(Answer(429, {"Retry-After": "1"}), matching("POST", "configmaps$"), skip=1, times=2)
        client.post(objects.config_maps, config_map("first"))
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                client.post(objects.config_maps, config_map("second"))
            assert (refused.value.code, refused.value.reason) == (429, "TooManyRequests")
        client.post(objects.config_maps, config_map("second"))
        assert rule.hits == 2
        assert proxy.count(matching("POST")) == 4

    @pytest.mark.parametrize("carried_out", [False, True])
    def test_it_cuts_a_connection_before_or_after_the_request_is_carried_out(
        self, proxy: Proxy, client: Client, objects: Objects, carried_out: bool
    ) -> None:
        proxy.rule(Cut(forward_first=carried_out), matching("POST"))
        with pytest.raises(httpx.TransportError):
            client.post(objects.config_maps, config_map("a"))
        assert objects.api.exists(f"{objects.config_maps}/a") is carried_out

    def test_frozen_it_carries_out_nothing_more(self, proxy: Proxy, client: Client, objects: Objects) -> None:
        frozen = proxy.rule(Freeze(forward_first=True), matching("POST"))
        errors: list[BaseException] = []

        def post(name: str) -> None:
            try:
                client.post(objects.config_maps, config_map(name))
            except httpx.TransportError as error:
                errors.append(error)

        threads = [threading.Thread(target=post, args=[name]) for name in ("last", "never")]
        threads[0].start()
        frozen.wait(10)
        threads[1].start()
        objects.until(lambda: proxy.count(matching("POST")) == 2, 10, "the second request is there")
        assert objects.api.exists(f"{objects.config_maps}/last")
        assert not objects.api.exists(f"{objects.config_maps}/never")
        proxy.reset()
        for thread in threads:
            thread.join()
        assert len(errors) == 2
        client.post(objects.config_maps, config_map("never"))

    def test_something_else_can_happen_first(self, proxy: Proxy, client: Client, objects: Objects) -> None:
        proxy.rule(Call(lambda: objects.api.post(objects.config_maps, config_map("a"))), matching("POST"))
        with pytest.raises(Refused, match="already exists"):
            client.post(objects.config_maps, config_map("a"))

    def test_it_streams_watches_cuts_them_and_says_that_they_are_too_old(
        self, proxy: Proxy, client: Client, objects: Objects
    ) -> None:
        events = client.watch(objects.config_maps)
        assert next(events)["object"]["metadata"]["name"] == "kube-root-ca.crt"
        client.post(objects.config_maps, config_map("a"))
        assert next(events)["object"]["metadata"]["name"] == "a"
        assert proxy.cut_watches() == 1
        with pytest.raises(httpx.TransportError):
            next(events)
        proxy.rule(Expired(), matching(watch=True))
        assert [event["object"]["code"] for event in client.watch(objects.config_maps)] == [410]

    def test_it_can_be_down(self, proxy: Proxy, client: Client, objects: Objects) -> None:
        events = client.watch(objects.config_maps)
        next(events)
        proxy.down()
        with pytest.raises(httpx.TransportError):
            next(events)
        with pytest.raises(httpx.ConnectError, match="refused"):
            client.get(objects.config_maps)
        proxy.up()
        client.get(objects.config_maps)


def test_a_horizontal_pod_autoscaler_scales_by_the_tests_metric(cluster: Cluster, objects: Objects) -> None:
    objects.api.post(objects.stateful_sets, stateful_set("worker", 1))
    metric = {"metric": {"name": "queued"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    autoscaler = {
        "metadata": {"name": "worker"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "worker"},
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [{"type": "External", "external": metric}],
        },
    }
    with MetricsSource(cluster) as source:
        source.set("queued", 10)
        objects.api.post(f"/apis/autoscaling/v2/namespaces/{objects.namespace}/horizontalpodautoscalers", autoscaler)
        objects.until(lambda: objects.ready("worker") == 1, 30, "one pod is ready")
        source.set("queued", 30)
        objects.until(lambda: objects.ready("worker") == 3, 60, "three pods are ready")
        source.set("queued", 1)
        objects.until(lambda: objects.ready("worker") == 1, 60, "one pod is left")


@pytest.fixture
def killed_run(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    """A cluster's folder and processes, after the Python that had started it was killed."""
    script = (
        "import signal; from testbed.controlplane.cluster import Cluster; cluster = Cluster(); cluster.start();"
        "print(cluster.folder, flush=True); signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        pids = list(map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()))
        run.send_signal(signal.SIGKILL)
    yield folder, pids


def test_nothing_is_left_of_a_run_that_was_killed(cluster: Cluster, killed_run: tuple[Path, list[int]]) -> None:
    folder, pids = killed_run
    assert len(pids) == 5
    cluster.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10, "its processes are gone")
    assert folder.exists()
    Folder().remove()  # as the next cluster's
    assert not folder.exists()
    assert cluster.folder.exists(), "one in use must stay"
