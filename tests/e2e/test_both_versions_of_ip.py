"""Two nodes whose pods have an address of IPv4 and one of IPv6, on one node in this order and on the other in that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from testbed.controlplane.client import JSON
from testbed.deployment.load import draw, requests
from testbed.deployment.operator import installed
from testbed.deployment.pipeline import HTTP_PORT, READY_SECONDS, Deployed
from testbed.examples import resource
from testbed.images.building import archive
from testbed.nodes import images
from testbed.nodes.boxes import Boxes
from testbed.nodes.cluster import NodeCluster

IMAGES: Final = ("operator", "router", "worker")
PLACES: Final = {"encoder": "node-1", "denoiser": "node-2", "decoder": "node-1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[NodeCluster]:
    """In the place of the one that all other tests share."""
    with NodeCluster(nodes=2, families=["IPv4", "IPv6"], orders={"node-2": ["IPv6", "IPv4"]}) as running:
        for target in IMAGES:
            running.load_image(archive(target))
        yield running


@pytest.fixture(scope="module")
def operator(cluster: NodeCluster) -> Iterator[None]:
    with installed(cluster):
        yield


def placed(name: str, **transport: Any) -> JSON:
    document: JSON = resource("digits")
    document["metadata"]["name"] = name
    document["spec"]["transport"] = transport
    for role, node in PLACES.items():
        document["spec"]["roles"][role]["nodeSelector"] = {"kubernetes.io/hostname": node}
    return document


def test_mooncake_does_not_join_them_and_the_pipeline_says_so(deploy: Callable[..., Deployed]) -> None:
    apart = deploy(placed("apart", backend="mooncake"), ready=False)

    def refused() -> bool:
        return apart.resources.condition("apart", "PeersRegistered").get("reason") == "Incompatible"

    apart.until(refused, READY_SECONDS, "a worker is refused")
    message = apart.resources.condition("apart", "PeersRegistered")["message"]
    assert "apart-denoiser-0 moves tensors by mooncake-tcp over IPv6" in message or "over IPv6, and Mooncake" in message
    assert "--node-ip" in message
    apart.resources.delete("apart")
    apart.until(lambda: not apart.pods(), READY_SECONDS, "its pods are gone")


@pytest.fixture(scope="module")
def joined(deploy: Callable[..., Deployed]) -> Deployed:
    return deploy(placed("joined", backend="tcp"))


def test_our_own_tcp_joins_them(joined: Deployed) -> None:
    at = {peer.pod_name: peer.pool.url for peer in joined.peers()}
    assert at["joined-denoiser-0"].startswith("tcp://[")
    assert not at["joined-encoder-0"].startswith("tcp://[")
    assert draw(joined, requests()[0])
    for role in ("denoiser", "decoder"):
        assert joined.metric(f"joined-{role}-0", "diffusion_worker_transfer_bytes_total") > 0


def test_the_router_answers_at_each_of_its_addresses(joined: Deployed) -> None:
    addresses = [each["ip"] for each in joined.pod(joined.router_pod)["status"]["podIPs"]]
    assert sum(":" in address for address in addresses) == 1
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        assert httpx.get(f"http://{host}:{HTTP_PORT}/readyz", trust_env=False).status_code == 200


def test_a_service_that_was_given_both_versions_leads_to_it_by_both(cluster: NodeCluster, joined: Deployed) -> None:
    path = joined.resources.path("Service", "joined-router-api")
    cluster.api.patch(path, {"spec": {"ipFamilyPolicy": "PreferDualStack"}})
    first, second = cluster.api.get(path)["spec"]["clusterIPs"]
    cluster.load_image(images.box(cluster.folder))
    with cluster.namespace("clients") as namespace:
        boxes = Boxes(cluster, namespace)
        boxes.make("box")
        boxes.wait_ready("box")
        for address in (first, f"[{second}]"):
            url = f"http://{address}:{HTTP_PORT}/readyz"
            cluster.until(lambda url=url: boxes.fetch("box", url), 30, f"{url} answers")  # type: ignore[misc]
