"""A ModelCache pulls roles' shares to real nodes; a pipeline starts from them where nothing can be downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from testbed.controlplane.client import JSON
from testbed.deployment.load import Request, draw
from testbed.deployment.pipeline import MODEL_ROLES, Deployed
from testbed.model_hub import ModelHub, playing
from testbed.nodes.cluster import NodeCluster
from testbed.published import publish
from testbed.waiting import NotYet, until
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import SD3

MODEL: JSON = {"id": "maker/sd3", "revision": "main"}
PLACES = {"encoder": "node-1", "denoiser": "node-2", "decoder": "node-1"}
# Beside image and interpreter: torch and diffusers are read on the first start on a node.
SECONDS = 180.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def hub(cluster: NodeCluster, tmp_path: Path) -> Iterator[ModelHub]:
    with playing(cluster.address) as hub:
        hub.add(MODEL["id"], publish(ensure(SD3), tmp_path / "sd3"))
        yield hub


@pytest.fixture
def cache(cluster: NodeCluster, operator: None, namespace: str, hub: ModelHub) -> str:
    """The path of a ModelCache that pulls from the played hub, each role to one node."""
    where = [{"name": "HF_ENDPOINT", "value": hub.endpoint}]
    roles = {role: {"nodeSelector": {"kubernetes.io/hostname": node}, "env": where} for role, node in PLACES.items()}
    path = f"/apis/diffusion-operator.dev/v1alpha1/namespaces/{namespace}/modelcaches"
    item = {"apiVersion": "diffusion-operator.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "sd3"}}
    cluster.api.post(path, {**item, "spec": {"model": MODEL, "roles": roles}})
    return f"{path}/sd3"


def pipeline() -> JSON:
    model = {"source": "Hub", **MODEL, "dtype": "float32", "cache": {"type": "ModelCache", "modelCacheName": "sd3"}}
    return {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": "sd3"},
        "spec": {"model": model, "transport": {"protocol": "tcp"}},
    }


def test_a_pipeline_starts_from_what_is_on_the_nodes_with_the_hub_gone(
    cluster: NodeCluster, namespace: str, hub: ModelHub, cache: str, report: Callable[[str], None]
) -> None:
    # Workers come first, and wait.
    sd3 = Deployed.create(cluster, namespace, pipeline())

    def pulled() -> bool:
        ready = cluster.api.get(cache)["status"]["conditions"][0]
        if ready["status"] != "True":
            raise NotYet(f"{ready['reason']}: {ready['message']}")
        return True

    until(pulled, SECONDS, "all is pulled")
    for role in MODEL_ROLES:
        report(f"{role}: {hub.bytes_sent(role):,} bytes from the hub")
    assert hub.bytes_sent("encoder") > 0
    asked = len(hub.asked())
    sd3.wait_ready(SECONDS)
    assert {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in sd3.workers()} == {
        f"sd3-{role}-0": node for role, node in PLACES.items()
    }
    assert len(draw(sd3, Request("a red seven", 1, 2))) > 0

    hub.stop()
    before = sd3.uid("sd3-denoiser-0")
    sd3.delete_pod("sd3-denoiser-0")
    sd3.until(lambda: sd3.pod_ready("sd3-denoiser-0", before), SECONDS, "the next one is there")
    report(_told(sd3, "sd3-denoiser-0"))
    assert len(draw(sd3, Request("a red seven", 2, 2))) > 0
    assert len(hub.asked()) == asked


def _told(sd3: Deployed, pod: str) -> str:
    """When each part of a start was over, in seconds after the container's, and how long reading the weights took."""
    first: dict[str, JSON] = {}
    for line in sd3.logs(pod):
        first.setdefault(line["event"], line)
    (main,) = (one for one in sd3.pod(pod)["status"]["containerStatuses"] if one["name"] == "main")
    began = datetime.fromisoformat(main["state"]["running"]["startedAt"])
    parts = [
        f"{event} {(datetime.fromisoformat(first[event]['timestamp']) - began).total_seconds():.1f} s"
        for event in ("worker_starting", "transport_open", "model_loaded", "registered")
    ]
    read = first["model_loaded"]["seconds"]
    return f"a start, of which {read:.1f} s to read and load weights: {', '.join(parts)}"
