"""Where a real scheduler puts workers that are to be near one another, or that want the same ports of a node."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from cluster.conftest import CRDS
from cluster.user import ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator, operator_user

ZONE = "topology.kubernetes.io/zone"
# Each has three nodes: one for each worker of a pipeline with one pod a role.
ZONES = ("a", "b")
WORKERS = ("encoder", "denoiser", "decoder")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def zones() -> Iterator[Cluster]:
    """A cluster whose nodes are in several zones."""
    with Cluster() as running:
        running.define(CRDS)
        for zone in ZONES:
            for number in range(3):
                running.add_node(f"{zone}-{number}")
                running.api.patch(f"/api/v1/nodes/{zone}-{number}", {"metadata": {"labels": {ZONE: zone}}})
        yield running


@pytest.fixture(scope="module")
def operator_of_zones(zones: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    operator_user(zones, "operator:zones")
    log = tmp_path_factory.mktemp("zones") / "operator.log"
    with Operator(zones.kubeconfig_of("operator:zones"), log=log) as operator:
        yield operator


Users = Callable[[str], User]


@pytest.fixture
def users(zones: Cluster, operator_of_zones: Operator) -> Iterator[Users]:
    """Of pipelines by name, in a namespace of the test's."""
    with zones.namespace(f"zones-{next(_numbers)}") as namespace:
        made: list[User] = []

        def make(name: str) -> User:
            made.append(User(zones, namespace, name))
            return made[-1]

        yield make
        for user in made:
            user.kubectl("delete", "dpipe", user.name, "--ignore-not-found", "--wait=false")
        # The next test counts what is free on nodes.
        zones.until(lambda: not zones.api.items(f"/api/v1/namespaces/{namespace}/pods"), 60, "no pods are left")


def nodes_of(user: User, *roles: str) -> list[str]:
    """Of the pods of these roles."""
    return [pod["spec"].get("nodeName", "") for role in roles for pod in user.pods(role)]


def zones_of(user: User, *roles: str) -> set[str]:
    return {node.partition("-")[0] for node in nodes_of(user, *roles)}


def wide(replicas: int, cpus: int) -> JSON:
    """Worker roles of so many pods, each of which takes so many CPUs."""
    return {role: {"replicas": replicas, "resources": {"requests": {"cpu": cpus}}} for role in WORKERS}


class TestTopology:
    def test_without_a_word_of_it_workers_are_spread_over_zones(self, users: Users) -> None:
        user = users("painter")
        user.make(roles=wide(2, 20))
        user.until_ready()
        assert zones_of(user, *WORKERS) == set(ZONES)

    @pytest.mark.parametrize("mode", ["Require", "Prefer"])
    def test_workers_of_all_roles_are_in_one_zone_where_there_is_room(self, mode: str, users: Users) -> None:
        user = users("painter")
        user.make(roles=wide(2, 20), topology={"key": ZONE, "mode": mode})
        user.until_ready()
        assert len(nodes_of(user, *WORKERS)) == 6
        assert len(zones_of(user, *WORKERS)) == 1
        # And not all on one node, which is no less near.
        assert len(set(nodes_of(user, *WORKERS))) > 1

    def test_one_that_finds_no_room_there_waits_if_it_is_required_and_is_told_of(self, users: Users) -> None:
        user = users("painter")
        # Four of six in the three nodes of a zone, one a node and no more.
        user.make(roles=wide(2, 40), topology={"key": ZONE, "mode": "Require"})
        words = "didn't match pod affinity rules"
        user.until_condition("Schedulable", "False", "InsufficientResource", words)
        assert len(zones_of(user, *WORKERS) - {""}) == 1
        assert nodes_of(user, *WORKERS).count("") == 3
        # The remedy that the page names.
        user.edit(topology={"mode": "Prefer"})
        user.until_ready(60)
        assert zones_of(user, *WORKERS) == set(ZONES)

    def test_pipelines_are_near_themselves_and_not_one_another(self, users: Users) -> None:
        first, second = users("first"), users("second")
        first.make(roles=wide(2, 30), topology={"key": ZONE, "mode": "Require"})
        first.until_ready()
        (taken,) = zones_of(first, *WORKERS)
        second.make(roles=wide(2, 30), topology={"key": ZONE, "mode": "Require"})
        second.until_ready()
        assert zones_of(second, *WORKERS) == set(ZONES) - {taken}


class TestPortsOfNodes:
    """Six nodes, and two pipelines that want three each, one a worker."""

    @staticmethod
    def on_the_host(user: User, first: int, last: int, **more: object) -> None:
        transport = {
            "protocol": "auto",
            "rdma": {"hostNetwork": True, "ipcLock": "Never"},
            "rpcPortRange": {"min": first, "max": last},
        }
        where = {role: {"nodeSelector": {ZONE: "a"}} for role in WORKERS}
        user.make(transport=transport, networkPolicy={"mode": "None"}, roles=where, **more)

    def test_two_pipelines_share_nodes_if_their_ranges_are_apart(self, users: Users) -> None:
        first, second = users("first"), users("second")
        self.on_the_host(first, 15000, 15999)
        self.on_the_host(second, 16000, 16999)
        first.until_ready()
        second.until_ready()
        assert set(nodes_of(first, *WORKERS)) == set(nodes_of(second, *WORKERS)) == {"a-0", "a-1", "a-2"}

    def test_with_the_same_range_they_are_kept_apart_and_it_is_told(self, users: Users) -> None:
        first, second = users("first"), users("second")
        self.on_the_host(first, 15000, 15999)
        first.until_ready()
        self.on_the_host(second, 15000, 16999)
        second.until_condition("Schedulable", "False", "Unschedulable", "didn't have free ports")
        second.edit(transport={"rpcPortRange": {"min": 16000}})
        second.until_ready(60)
        assert len(nodes_of(second, *ROLES)) == 4
