"""A pipeline as it is by default, on nodes that enforce policies: it serves, and nobody else reaches its pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import ClusterError
from testbed.deployment.load import Request, draw, requests
from testbed.deployment.pipeline import GRPC_PORT, HEALTH_PORT, HTTP_PORT, MODEL_ROLES, Deployed
from testbed.examples import resource
from testbed.nodes import images
from testbed.nodes.boxes import PORT, Boxes
from testbed.nodes.cluster import NodeCluster

PIPELINES, BOXES = "node-1", "node-2"
KUBELET_PORT = 10250
POLICY_SECONDS = 10
# Whatever a test before has set.
NO_POLICY = {"mode": "None", **dict.fromkeys(("httpFrom", "grpcFrom", "metricsFrom", "egress"))}
SEVEN = requests()[0]

# A container has no curl, but Python.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"


@dataclass(frozen=True)
class Scene:
    """A pipeline on one node; what is none of its there too, and on the other one."""

    digits: Deployed
    boxes: Boxes

    def address(self, pod: str) -> str:
        return str(self.digits.pod(pod)["status"]["podIP"])

    def transfer_port(self, pod: str) -> int:
        (peer,) = (peer for peer in self.digits.peers() if peer.pod_name == pod)
        return int(urlsplit(peer.pool.url).port or 0)

    def box_reaches(self, box: str, pod: str, port: int) -> bool:
        """Whether a connection is made, whatever becomes of it."""
        url = f"http://{self.address(pod)}:{port}"
        options = ("--silent", "--output", "/dev/null", "--max-time", "2", "--connect-timeout", "1")
        counted = f"curl {' '.join(options)} --write-out '%{{num_connects}}' {url} || true"
        return self.boxes.exec(box, "sh", "-c", counted).strip() == "1"

    def reaches_out(self, pod: str, address: str, port: int) -> bool:
        """Whether the main container of one of the pipeline's pods gets a connection."""
        try:
            self.digits.cluster.kubectl(
                *("exec", pod, "--namespace", self.digits.namespace, "--container=main", "--"),
                *("python", "-c", CONNECT, address, str(port)),
            )
        except ClusterError as error:
            assert "Error" in str(error), error
            return False
        return True


@pytest.fixture(scope="module")
def scene(cluster: NodeCluster, deploy: Callable[..., Deployed]) -> Iterator[Scene]:
    cluster.load_image(images.box(cluster.folder))
    digits = deploy(on_one_node(resource("digits")))
    with cluster.namespace("strangers") as namespace:
        boxes = Boxes(cluster, namespace)
        boxes.make("stranger", node=BOXES)
        boxes.make("neighbour", node=PIPELINES)
        boxes.make("prometheus", node=BOXES)
        boxes.wait_ready("stranger", "neighbour", "prometheus")
        prometheus = {"metadata": {"labels": {"app.kubernetes.io/name": "prometheus"}}}
        cluster.api.patch(f"{boxes.path}/pods/prometheus", prometheus)
        yield Scene(digits, boxes)


def on_one_node(document: JSON) -> JSON:
    for role in (*MODEL_ROLES, "router"):
        document["spec"]["roles"].setdefault(role, {})["nodeSelector"] = {"kubernetes.io/hostname": PIPELINES}
    return document


def test_an_isolated_pipeline_serves_and_its_operator_hears_of_its_peers(
    scene: Scene, pictures: dict[Request, bytes]
) -> None:
    # It is ready: its probes were answered, its workers found the router by name, and the operator was answered.
    assert scene.digits.resources.condition("digits", "PeersRegistered")["status"] == "True"
    assert draw(scene.digits, SEVEN) == pictures[SEVEN]


@pytest.mark.parametrize("box", ["stranger", "neighbour"])
def test_a_stranger_reaches_the_api_and_nothing_else(cluster: NodeCluster, scene: Scene, box: str) -> None:
    assert scene.box_reaches(box, "digits-router-0", HTTP_PORT)
    closed = [("digits-router-0", GRPC_PORT)]
    for role in MODEL_ROLES:
        pod = f"digits-{role}-0"
        closed += [(pod, HEALTH_PORT), (pod, HEALTH_PORT + 1), (pod, scene.transfer_port(pod))]
    for pod, port in closed:
        cluster.until(
            lambda pod=pod, port=port: not scene.box_reaches(box, pod, port),  # type: ignore[misc]
            POLICY_SECONDS,
            f"{pod}:{port} is closed to strangers",
        )


def test_prometheus_reaches_metrics_and_no_transfer_port(cluster: NodeCluster, scene: Scene) -> None:
    for role in MODEL_ROLES:
        pod = f"digits-{role}-0"
        cluster.until(
            lambda pod=pod: scene.box_reaches("prometheus", pod, HEALTH_PORT),  # type: ignore[misc]
            POLICY_SECONDS,
            f"Prometheus reads what {pod} tells",
        )
        assert not scene.box_reaches("prometheus", pod, scene.transfer_port(pod))


def test_pods_reach_their_own_and_nothing_else(cluster: NodeCluster, scene: Scene) -> None:
    box = cluster.pod_ip("stranger", scene.boxes.namespace)
    node = str(scene.digits.pod("digits-router-0")["status"]["hostIP"])
    router = scene.address("digits-router-0")
    elsewhere = [(box, PORT), (cluster.address, cluster.port), (node, KUBELET_PORT)]
    for role in (*MODEL_ROLES, "router"):
        pod = f"digits-{role}-0"
        assert scene.reaches_out(pod, router, GRPC_PORT)
        for address, port in elsewhere:
            assert not scene.reaches_out(pod, address, port), f"{pod} reaches {address}:{port}"


def test_what_is_named_is_let_through_and_without_policies_all_is(cluster: NodeCluster, scene: Scene) -> None:
    box = cluster.pod_ip("stranger", scene.boxes.namespace)
    pod = "digits-denoiser-0"
    named = {"to": [{"ipBlock": {"cidr": f"{box}/32"}}], "ports": [{"port": PORT}]}
    scene.digits.edit(networkPolicy={"egress": [named]})
    cluster.until(lambda: scene.reaches_out(pod, box, PORT), POLICY_SECONDS, "what is named is reached")
    assert not scene.reaches_out(pod, cluster.address, cluster.port)
    scene.digits.edit(networkPolicy=NO_POLICY)
    cluster.until(lambda: scene.reaches_out(pod, cluster.address, cluster.port), POLICY_SECONDS, "pods reach all")
    cluster.until(
        lambda: scene.box_reaches("stranger", pod, scene.transfer_port(pod)), POLICY_SECONDS, "strangers reach pods"
    )


@pytest.mark.thorough
def test_a_way_between_workers_that_is_closed_is_told_before_a_job_needs_it(
    cluster: NodeCluster, scene: Scene, pictures: dict[Request, bytes]
) -> None:
    digits = scene.digits
    digits.edit(networkPolicy=NO_POLICY)
    router = {"ipBlock": {"cidr": f"{scene.address('digits-router-0')}/32"}}
    closed = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "encoders-hear-the-router-alone"},
        "spec": {
            "podSelector": {"matchLabels": digits.pod("digits-encoder-0")["metadata"]["labels"]},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [router]}],
        },
    }
    path = f"/apis/networking.k8s.io/v1/namespaces/{digits.namespace}/networkpolicies"
    cluster.api.post(path, closed)
    cluster.until(
        lambda: not scene.reaches_out("digits-denoiser-0", scene.address("digits-encoder-0"), HEALTH_PORT),
        POLICY_SECONDS,
        "denoisers do not reach encoders",
    )
    digits.delete_pod("digits-denoiser-0")
    digits.until(
        lambda: (
            transport(digits)[0] == "PeerUnreachable"
            and "digits-denoiser-0 can't pull from digits-encoder-0" in transport(digits)[1]
        ),
        240,
        "it is told that the denoiser reaches no encoder",
    )
    assert digits.resources.condition("digits", "Ready")["status"] == "False"
    cluster.api.delete(f"{path}/encoders-hear-the-router-alone")
    digits.until(lambda: "1 denoiser from an encoder" in transport(digits)[1], 180, "it is told that it does")
    digits.wait_ready()
    assert draw(digits, SEVEN) == pictures[SEVEN]


def transport(digits: Deployed) -> tuple[str, str]:
    """Reason and message."""
    condition = digits.resources.condition("digits", "TransportReady")
    return condition["reason"], condition["message"]
