"""One control plane for all of these tests; each test has a namespace of its own in it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.controlplane import programs
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator, operator_user
from testbed.controlplane.pipelines import Pipelines
from testbed.controlplane.proxy import Proxy

CRDS = Path(__file__).parents[2] / "crds"
NODES = 5
RDMA = {"rdma/hca": 8, "nvidia.com/gpu": 8}

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("operators that are killed at every request")
    group.addoption("--every", type=int, default=1, metavar="N", help="at every Nth request only, from a random one on")
    group.addoption("--start", type=int, metavar="K", help="with --every: the first one, 0 to N - 1, to repeat a run")


def pytest_collection_finish(session: pytest.Session) -> None:
    """A cold build takes longer than any test may: it is no part of the first one."""
    here = Path(__file__).parent
    if not session.config.option.collectonly and any(here in item.path.parents for item in session.items):
        programs.control_plane()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Autoscalers look each second, and do not wait five minutes before they take pods away.
    impatient = ("--horizontal-pod-autoscaler-sync-period=1s", "--horizontal-pod-autoscaler-downscale-stabilization=1s")
    with Cluster(controller_args=impatient) as running:
        running.define(CRDS)
        for number in range(NODES):
            running.add_node(f"node-{number}", **RDMA)
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace(f"test-{next(_numbers)}") as name:
        yield name


@pytest.fixture
def pipelines(cluster: Cluster, namespace: str) -> Pipelines:
    """The test's, as its administrator."""
    return Pipelines(cluster.api, namespace)


@pytest.fixture
def proxy(cluster: Cluster, namespace: str) -> Iterator[Proxy]:
    """The API server as the test's operator reaches it, as a user who may work in the test's namespace."""
    user = f"operator:{namespace}"
    operator_user(cluster, user, namespaces=[namespace], lease_namespace=namespace)
    with Proxy(cluster, user) as running:
        yield running


@pytest.fixture
def operators(proxy: Proxy, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    """Starts operators that watch the test's namespace through its proxy: `operators("--leader-elect")`."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count(1)

        def start(*flags: str) -> Operator:
            log = tmp_path / f"operator-{next(numbers)}.log"
            operator = Operator(proxy.kubeconfig, f"--watch-namespaces={namespace}", *flags, log=log)
            stack.push(operator)  # ended also if it does not become ready
            operator.start()
            return operator

        yield start


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    return operators()


@pytest.fixture(scope="module")
def everywhere(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """One operator for all namespaces, and for all tests of a module that need not end it."""
    user = f"operator:{request.module.__name__.rpartition('.')[2]}"
    operator_user(cluster, user)
    log = tmp_path_factory.mktemp("everywhere") / "operator.log"
    operator = Operator(cluster.kubeconfig_of(user), log=log)
    with contextlib.ExitStack() as stack:
        stack.push(operator)
        operator.start()
        yield operator
