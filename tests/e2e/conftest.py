"""One cluster of two real nodes for all of these tests; each test has a namespace of its own in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.controlplane import programs
from testbed.controlplane.client import JSON
from testbed.deployment.load import Request, expected, requests
from testbed.deployment.operator import installed
from testbed.deployment.pipeline import Deployed
from testbed.examples import resource
from testbed.images.building import archive
from testbed.nodes.cluster import NodeCluster

IMAGES = ("operator", "router", "worker")
DEVICES = {"rdma/hca": 8}
# After a node is lost (12 s), until its pods are deleted: Kubernetes' own default is 300.
TOLERATION_SECONDS = 10
LONG_STEPS = 40

_numbers = itertools.count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A cold build takes longer than any test may: it is no part of the first one."""
    here = Path(__file__).parent
    if not session.config.option.collectonly and any(here in item.path.parents for item in session.items):
        programs.control_plane()
        for target in IMAGES:
            archive(target)


@pytest.fixture(scope="session")
def cluster() -> Iterator[NodeCluster]:
    with NodeCluster(nodes=2, devices=DEVICES, toleration_seconds=TOLERATION_SECONDS) as running:
        for target in IMAGES:
            running.load_image(archive(target))
        yield running


@pytest.fixture(scope="session")
def operator(cluster: NodeCluster) -> Iterator[None]:
    """The chart, with its defaults."""
    with installed(cluster):
        yield


@pytest.fixture(scope="module")
def deploy(cluster: NodeCluster, operator: None) -> Iterator[Callable[..., Deployed]]:
    """Applies an example, or a resource, in a namespace of the module, and waits until it is Ready. Gone afterwards."""
    namespace = f"test-{next(_numbers)}"
    cluster.add_namespace(namespace, **{"pod-security.kubernetes.io/enforce": "restricted"})

    def apply(example: str | JSON, *, ready: bool = True) -> Deployed:
        pipeline = Deployed.create(cluster, namespace, resource(example) if isinstance(example, str) else example)
        if ready:
            pipeline.wait_ready()
        return pipeline

    yield apply
    cluster.api.delete(f"/api/v1/namespaces/{namespace}")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    cluster.until(lambda: not cluster.api.items(pods), 120, f"the pods of {namespace} are gone")


@pytest.fixture(scope="session")
def pictures(drawn: dict[Request, bytes]) -> dict[Request, bytes]:
    """What the monolith makes of the requests of a load."""
    return {request: drawn[request] for request in requests()}


@pytest.fixture(scope="session")
def long_pictures(drawn: dict[Request, bytes]) -> dict[Request, bytes]:
    """The same of requests that take longer: a fault meets them in the middle of a stage."""
    return {request: drawn[request] for request in requests(LONG_STEPS)}


@pytest.fixture(scope="session")
def drawn(cluster: NodeCluster, operator: None) -> dict[Request, bytes]:
    """By the monolith: all roles in one pod of the same image."""
    namespace = f"monolith-{next(_numbers)}"
    cluster.add_namespace(namespace)
    monolith = Deployed.create(cluster, namespace, resource("digits-colocated"))
    monolith.wait_ready()
    pictures = expected(monolith, [*requests(), *requests(LONG_STEPS)])
    # Its processor time is the others'.
    cluster.api.delete(f"/api/v1/namespaces/{namespace}")
    cluster.until(lambda: not monolith.pods(), 120, "the monolith is gone")
    return pictures


@pytest.fixture
def namespace(cluster: NodeCluster) -> Iterator[str]:
    with cluster.namespace(f"test-{next(_numbers)}") as name:
        yield name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[Any]:
    """What the nodes' programs said last is shown with a test that failed."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, NodeCluster):
        report.sections.append(("nodes", cluster.logs_of_nodes()))
    return report
