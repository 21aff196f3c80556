"""Two nodes without IPv4: pods, Services, DNS and the API server have IPv6 addresses alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final

import pytest

from testbed.controlplane.client import JSON
from testbed.deployment.load import draw, requests
from testbed.deployment.operator import installed
from testbed.deployment.pipeline import GRPC_PORT, HTTP_PORT, Deployed
from testbed.examples import resource
from testbed.images.building import archive
from testbed.nodes import images
from testbed.nodes.boxes import Boxes
from testbed.nodes.cluster import NodeCluster

IMAGES: Final = ("operator", "router", "worker")
SEVEN: Final = requests()[0]
POLICY_SECONDS: Final = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[NodeCluster]:
    """In the place of the one that all other tests share."""
    with NodeCluster(nodes=2, families=["IPv6"]) as running:
        for target in IMAGES:
            running.load_image(archive(target))
        yield running


@pytest.fixture(scope="module")
def operator(cluster: NodeCluster) -> Iterator[None]:
    with installed(cluster):
        yield


@pytest.fixture(scope="module")
def digits(deploy: Callable[..., Deployed]) -> Deployed:
    """Each tensor goes from one node to the other."""
    document: JSON = resource("digits")
    for role, node in {"encoder": "node-1", "denoiser": "node-2", "decoder": "node-1"}.items():
        document["spec"]["roles"][role]["nodeSelector"] = {"kubernetes.io/hostname": node}
    return deploy(document)


@pytest.fixture(scope="module")
def stranger(cluster: NodeCluster) -> Iterator[Boxes]:
    """A pod that is none of the pipeline's."""
    cluster.load_image(images.box(cluster.folder))
    with cluster.namespace("strangers") as namespace:
        boxes = Boxes(cluster, namespace)
        boxes.make("box")
        boxes.wait_ready("box")
        yield boxes


def test_a_pipeline_becomes_ready_by_probes_peers_and_transport(digits: Deployed) -> None:
    addresses = {pod["metadata"]["name"]: pod["status"]["podIPs"] for pod in digits.pods()}
    assert len(addresses) == 4
    assert {ip_address(found["ip"]).version for each in addresses.values() for found in each} == {6}
    for peer in digits.peers():
        assert peer.pool.url.startswith(f"mooncake-tcp://[{addresses[peer.pod_name][0]['ip']}]:")
    for condition in ("PeersRegistered", "TransportReady"):
        assert digits.resources.condition("digits", condition)["status"] == "True", condition


def test_a_pod_gets_a_picture_by_the_services_name(digits: Deployed, stranger: Boxes) -> None:
    body = json.dumps({**SEVEN.body, "response_format": "b64_json"})
    url = f"http://digits-router-api.{digits.namespace}.svc:{HTTP_PORT}/v1/images/generations"
    answer = stranger.exec("box", "curl", "--silent", "--fail-with-body", "--json", body, url)
    (picture,) = json.loads(answer)["data"]
    assert base64.b64decode(picture["b64_json"]) == draw(digits, SEVEN)
    for role in ("denoiser", "decoder"):
        assert digits.metric(f"digits-{role}-0", "diffusion_worker_transfer_bytes_total") > 0


def test_a_stranger_reaches_the_api_and_nothing_else(cluster: NodeCluster, digits: Deployed, stranger: Boxes) -> None:
    def reaches(port: int) -> bool:
        url = f"http://[{digits.router_address()}]:{port}"
        options = ("--silent", "--output", "/dev/null", "--max-time", "2", "--connect-timeout", "1")
        counted = f"curl {' '.join(options)} --write-out '%{{num_connects}}' {url} || true"
        return stranger.exec("box", "sh", "-c", counted).strip() == "1"

    assert reaches(HTTP_PORT)
    cluster.until(lambda: not reaches(GRPC_PORT), POLICY_SECONDS, "the router's gRPC port is closed to strangers")
