"""Two pipelines over shared memory on one node, of one user: each sees its own pools alone."""

from __future__ import annotations

import pytest

from testbed.controlplane.client import JSON
from testbed.deployment.load import Request, draw, requests
from testbed.deployment.pipeline import MODEL_ROLES, Deployed
from testbed.examples import resource
from testbed.nodes.cluster import NodeCluster

SEVEN = requests()[0]
NODE = {"nodeSelector": {"kubernetes.io/hostname": "node-1"}}


def over_shared_memory(name: str) -> JSON:
    document: JSON = resource("digits-shm")
    document["metadata"]["name"] = name
    for role in MODEL_ROLES:
        document["spec"]["roles"][role] |= NODE
    return document


@pytest.fixture
def pipelines(cluster: NodeCluster, operator: None, namespace: str) -> list[Deployed]:
    """In a namespace that allows the node's folders."""
    made = [Deployed.create(cluster, namespace, over_shared_memory(name)) for name in ("first", "second")]
    for pipeline in made:
        pipeline.wait_ready()
    return made


def seen(pipeline: Deployed, role: str) -> set[str]:
    """What one of its pods finds in /dev/shm: folders, and pools in them."""
    pod = ("exec", f"{pipeline.name}-{role}-0", "--namespace", pipeline.namespace, "--container=main", "--")
    find = "import pathlib; print(*(p.relative_to('/dev/shm') for p in pathlib.Path('/dev/shm').rglob('*')))"
    return set(pipeline.cluster.kubectl(*pod, "python", "-c", find).split())


def test_each_has_a_folder_of_its_own_and_sees_no_other(
    pipelines: list[Deployed], pictures: dict[Request, bytes]
) -> None:
    found = []
    for pipeline in pipelines:
        assert draw(pipeline, SEVEN) == pictures[SEVEN]
        things = seen(pipeline, "denoiser")
        assert things == seen(pipeline, "encoder")
        folders = {thing for thing in things if "/" not in thing}
        assert len(folders) == 1
        assert len(things - folders) == len(MODEL_ROLES), "a pool for each worker"
        found.append(things)
    assert not found[0] & found[1]
