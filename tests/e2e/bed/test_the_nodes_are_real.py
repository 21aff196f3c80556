"""What the other tests here rely on: nodes run pods as nodes do, and what cuts and breaks them does what it claims."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from testbed.controlplane.cluster import ClusterError
from testbed.nodes import images
from testbed.nodes.boxes import PORT, SERVE, Boxes, spec
from testbed.nodes.cluster import NodeCluster

ONE, TWO = "node-1", "node-2"
HCA = "rdma/hca"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def box_image(cluster: NodeCluster) -> None:
    cluster.load_image(images.box(cluster.folder))


@pytest.fixture
def boxes(cluster: NodeCluster, box_image: None, namespace: str) -> Boxes:
    return Boxes(cluster, namespace)


@pytest.fixture(scope="module")
def pair(cluster: NodeCluster, box_image: None) -> Iterator[Boxes]:
    """Two pods of a StatefulSet, box-0 and box-1, on a node each, with a headless Service and another one."""
    namespace = "pair"
    cluster.add_namespace(namespace)
    labels = {"app": "box"}
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    pods = spec(
        affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
        tolerations=[
            {"key": f"node.kubernetes.io/{why}", "operator": "Exists"} for why in ("not-ready", "unreachable")
        ],
    )
    service = {"selector": labels, "ports": [{"port": PORT}]}
    path = f"/api/v1/namespaces/{namespace}/services"
    cluster.api.post(path, {"metadata": {"name": "box"}, "spec": {**service, "clusterIP": "None"}})
    cluster.api.post(path, {"metadata": {"name": "web"}, "spec": service})
    cluster.api.post(
        f"/apis/apps/v1/namespaces/{namespace}/statefulsets",
        {
            "metadata": {"name": "box"},
            "spec": {
                "replicas": 2,
                "podManagementPolicy": "Parallel",
                "serviceName": "box",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pods},
            },
        },
    )
    boxes = Boxes(cluster, namespace)
    boxes.wait_ready("box-0", "box-1")
    yield boxes
    cluster.api.delete(f"/api/v1/namespaces/{namespace}")


def url(pair: Boxes, pod: str) -> str:
    return f"http://{pod}.box.{pair.namespace}.svc.cluster.local:{PORT}/name"


def on(pair: Boxes, node: str) -> str:
    """Which of the pair is on a node."""
    return next(pod for pod in ("box-0", "box-1") if pair.get(pod)["spec"]["nodeName"] == node)


def test_pods_on_two_nodes_reach_each_other_by_headless_names(cluster: NodeCluster, pair: Boxes) -> None:
    assert {pair.get(pod)["spec"]["nodeName"] for pod in ("box-0", "box-1")} == {ONE, TWO}
    for sender, receiver in (("box-0", "box-1"), ("box-1", "box-0")):
        cluster.until(lambda s=sender, r=receiver: pair.fetch(s, url(pair, r)) == r, 10, f"{sender} reaches {receiver}")  # type: ignore[misc]


def test_a_service_leads_to_the_pods_of_both_nodes(cluster: NodeCluster, pair: Boxes) -> None:
    seen: set[str] = set()

    def both() -> bool:
        seen.add(pair.fetch("box-0", f"http://web:{PORT}/name"))
        return seen >= {"box-0", "box-1"}

    cluster.until(both, 20, "both pods answered")


def test_this_machine_reaches_pods_by_their_addresses_and_by_a_port_forward(cluster: NodeCluster, pair: Boxes) -> None:
    answer = httpx.get(f"http://{cluster.pod_ip('box-1', pair.namespace)}:{PORT}/name", trust_env=False)
    assert answer.text.strip() == "box-1"
    with cluster.port_forward("pod/box-0", PORT, pair.namespace) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/name", trust_env=False).text.strip() == "box-0"
    with cluster.port_forward("svc/web", PORT, pair.namespace) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/name", trust_env=False).text.strip() in {"box-0", "box-1"}
    with pytest.raises(ClusterError, match="not found"), cluster.port_forward("svc/none", PORT, pair.namespace):
        pass


def test_a_pods_token_tells_the_api_server_whose_pod_it_is(pair: Boxes) -> None:
    ask = (
        f"curl --silent --max-time 5 --cacert {ACCOUNT}/ca.crt -H 'Authorization: Bearer '$(cat {ACCOUNT}/token) "
        "https://kubernetes.default.svc/api/v1/secrets"
    )
    assert f'User \\"system:serviceaccount:{pair.namespace}:default\\" cannot list' in pair.exec(
        "box-0", "sh", "-c", ask
    )


def test_probes_decide_on_readiness_and_restarts(cluster: NodeCluster, boxes: Boxes) -> None:
    def probe(file: str) -> dict[str, object]:
        return {"exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1}

    probes = {"readinessProbe": probe("/tmp/ready"), "livenessProbe": probe("/tmp/alive")}
    boxes.make("probed", "touch /tmp/alive; echo started; sleep 1000", container=probes)
    cluster.until(lambda: boxes.main("probed").get("started"), 20, "it runs")
    assert not boxes.is_ready("probed")
    boxes.exec("probed", "touch", "/tmp/ready")
    boxes.wait_ready("probed")
    boxes.exec("probed", "sh", "-c", "echo soon dead >/proc/1/fd/1; rm /tmp/alive")
    cluster.until(lambda: boxes.main("probed")["restartCount"] == 1, 20, "it was restarted")
    assert cluster.logs("probed", boxes.namespace, "--previous").splitlines() == ["started", "soon dead"]


def test_a_pod_has_its_grace_period_after_sigterm_and_no_longer(cluster: NodeCluster, boxes: Boxes) -> None:
    files = cluster.add_volume(f"{boxes.namespace}-grace", ONE)
    grace = 5
    scripts = {
        "obedient": "trap 'echo told >/data/obedient; exit' TERM",
        "stubborn": "trap 'echo told >/data/stubborn' TERM",
    }
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    volumes = [{"name": "data", "hostPath": {"path": f"/var/lib/volumes/{files.name}"}}]
    for name, trap in scripts.items():
        script = f"{trap}; touch /tmp/set; while :; do sleep 0.1; done"
        ready = {"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/set"]}, "periodSeconds": 1}}
        how = {"volumes": volumes, "terminationGracePeriodSeconds": grace}
        boxes.make(name, script, node=ONE, container={**mount, **ready}, **how)
    boxes.wait_ready(*scripts)
    began = time.monotonic()
    took = {}
    for name in scripts:
        cluster.api.delete(f"{boxes.path}/pods/{name}")
    for name in ("obedient", "stubborn"):
        boxes.wait_gone(name)
        took[name] = time.monotonic() - began
        assert (files / name).read_text() == "told\n"
    assert took["obedient"] < grace <= took["stubborn"], took


def test_network_policies_deny_and_allow(cluster: NodeCluster, pair: Boxes) -> None:
    name = "statefulset.kubernetes.io/pod-name"
    pair.make("stranger")
    pair.wait_ready("stranger")
    policies = f"/apis/networking.k8s.io/v1/namespaces/{pair.namespace}/networkpolicies"
    allowed = {"from": [{"podSelector": {"matchLabels": {name: "box-0"}}}], "ports": [{"port": PORT}]}
    policy = {"podSelector": {"matchLabels": {name: "box-1"}}, "policyTypes": ["Ingress"], "ingress": [allowed]}
    target = url(pair, "box-1")
    cluster.until(lambda: pair.fetch("stranger", target), 10, "all may at first")
    cluster.api.post(policies, {"metadata": {"name": "friends"}, "spec": policy})
    cluster.until(lambda: not pair.fetch("stranger", target), 10, "strangers are denied")
    assert pair.fetch("box-0", target) == "box-1"
    assert pair.fetch("stranger", url(pair, "box-0")) == "box-0"
    cluster.api.delete(f"{policies}/friends")
    cluster.until(lambda: pair.fetch("stranger", target), 10, "all may again")
    pair.delete("stranger")


def test_devices_are_allotted_break_and_mend(cluster: NodeCluster, boxes: Boxes) -> None:
    def allocatable() -> int:
        return int(cluster.node(ONE)["status"]["allocatable"][HCA])

    boxes.make("all", node=ONE, container={"resources": {"limits": {HCA: "8"}}})
    boxes.wait_ready("all")
    assert len(boxes.exec("all", "sh", "-c", "echo $TEST_DEVICES_RDMA_HCA").split(",")) == 8
    boxes.make("more", node=ONE, container={"resources": {"limits": {HCA: "1"}}})
    cluster.until(
        lambda: f"Insufficient {HCA}" in boxes.conditions("more").get("PodScheduled", {}).get("message", ""),
        10,
        "none is left",
    )
    cluster.break_devices(ONE, HCA, range(8))
    cluster.until(lambda: allocatable() == 0, 15, "all are unhealthy")
    boxes.delete("all")
    assert not boxes.is_ready("more")
    cluster.mend_devices(ONE, HCA, range(8))
    boxes.wait_ready("more")
    assert allocatable() == 8


def test_a_kubelets_crash_leaves_its_pods_running(cluster: NodeCluster, pair: Boxes) -> None:
    pod = on(pair, ONE)
    before = pair.main(pod)["containerID"]
    kubelet = cluster.kubelet(ONE)
    cluster.kill_kubelet(ONE)
    cluster.until(lambda: pair.says(pod, "hostname") == pod, 20, "the new kubelet runs commands")
    cluster.wait_node_ready(ONE)
    assert cluster.kubelet(ONE) != kubelet
    assert pair.main(pod)["containerID"] == before


def test_a_partition_cuts_two_nodes_off_from_each_other_alone(cluster: NodeCluster, pair: Boxes) -> None:
    ways = {sender: url(pair, receiver) for sender, receiver in (("box-0", "box-1"), ("box-1", "box-0"))}
    api = f"https://kubernetes.default.svc/version --cacert {ACCOUNT}/ca.crt"
    with cluster.partition(ONE, TWO):
        for sender, target in ways.items():
            assert not pair.fetch(sender, target)
            assert "gitVersion" in pair.exec(sender, "sh", "-c", f"curl --silent --max-time 5 {api}")
        assert all(map(cluster.node_ready, (ONE, TWO)))
    for sender, target in ways.items():
        assert pair.fetch(sender, target)


def test_a_node_whose_cable_is_out_is_lost_and_comes_back_with_its_pods(cluster: NodeCluster, pair: Boxes) -> None:
    near, far = on(pair, ONE), on(pair, TWO)
    before = pair.main(far)["containerID"]
    cluster.disconnect(TWO)
    assert not pair.fetch(near, url(pair, far))
    cluster.until(lambda: not cluster.node_ready(TWO), 20, "its loss is noticed")
    cluster.connect(TWO)
    cluster.wait_node_ready(TWO)
    pair.wait_ready(far)
    assert pair.fetch(near, url(pair, far)) == far
    assert pair.main(far)["containerID"] == before


def test_after_a_power_cut_a_pod_finds_what_its_volume_held(cluster: NodeCluster, boxes: Boxes) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    cluster.add_volume(f"{boxes.namespace}-kept", TWO, claim=f"{boxes.namespace}/kept")
    cluster.api.post(f"{boxes.path}/persistentvolumeclaims", {"metadata": {"name": "kept"}, "spec": claim})
    boxes.make(
        "writer",
        f"echo $(date +%s.%N) >>/data/starts; {SERVE}",
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}],
        securityContext={"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
    )
    boxes.wait_ready("writer")
    first = boxes.exec("writer", "cat", "/data/starts")
    address = cluster.pod_ip("writer", boxes.namespace)
    cluster.kill_node(TWO)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{address}:{PORT}/name", timeout=1, trust_env=False)
    cluster.start_node(TWO)
    cluster.until(lambda: boxes.main("writer")["restartCount"] == 1, 30, "it was started again")
    boxes.wait_ready("writer")
    starts = boxes.exec("writer", "cat", "/data/starts").splitlines()
    assert len(starts) == 2
    assert starts[0] == first.strip()
