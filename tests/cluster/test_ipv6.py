"""Clusters of IPv6, alone or beside IPv4: what they make of a pipeline's children, and whether the operator rests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

import pytest

from cluster.conftest import CRDS
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator, operator_user
from testbed.controlplane.pipelines import Pipelines, pipeline

NAMESPACE: Final = "paint"
OPERATOR: Final = "operator"
API: Final = "split-router-api"
HEADLESS: Final = ("split-router", "split-encoder", "split-denoiser", "split-decoder")
RESYNCS: Final = 8
FAMILIES: Final = (("IPv6",), ("IPv4", "IPv6"), ("IPv6", "IPv4"))
"""The first one's is what a Service gets unless it says otherwise."""


@pytest.fixture(scope="module", params=FAMILIES, ids=" and ".join)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """In the place of the one that all other tests share."""
    with Cluster(families=request.param) as running:
        running.define(CRDS)
        running.add_node("node")
        running.add_namespace(NAMESPACE)
        yield running


@pytest.fixture(scope="module")
def pipelines(cluster: Cluster) -> Pipelines:
    return Pipelines(cluster.api, NAMESPACE)


@pytest.fixture(scope="module")
def operator(cluster: Cluster, pipelines: Pipelines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Which has made all of a pipeline."""
    operator_user(cluster, OPERATOR)
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    flags = ("--resync-seconds=1", "--router-address=[::1]:1")
    pipelines.create(pipeline("split", networkPolicy={"mode": "Isolate"}))
    with contextlib.ExitStack() as stack:
        running = Operator(cluster.kubeconfig_of(OPERATOR), *flags, log=log)
        stack.push(running)
        running.start()
        cluster.until(lambda: pipelines.settled("split"), 60, "the pipeline has settled")
        yield running


def until_it_rests(cluster: Cluster) -> None:
    """Until many comparisons of everything, one after another, have it write nothing."""

    def rests() -> bool:
        mark = cluster.audit.mark()

        def compared() -> bool:
            return (
                len(cluster.audit.entries(mark, user=OPERATOR, verb="list", resource="diffusionpipelines")) >= RESYNCS
            )

        cluster.until(compared, 60, f"{RESYNCS} resyncs", longest_pause=1)
        return not cluster.audit.writes(mark, user=OPERATOR)

    cluster.until(rests, 120, "the operator rests")


def families(addresses: list[str]) -> tuple[str, ...]:
    return tuple(f"IPv{ip_address(address).version}" for address in addresses)


def test_services_are_of_the_clusters_first_family_and_stay_as_they_are(
    cluster: Cluster, pipelines: Pipelines, operator: Operator
) -> None:
    services = {name: pipelines.child("Service", name)["spec"] for name in (*HEADLESS, API)}
    for name, spec in services.items():
        assert spec["ipFamilies"] == [cluster.families[0]], name
    assert families(services[API]["clusterIPs"]) == cluster.families[:1]
    until_it_rests(cluster)


def test_a_service_that_was_given_both_families_keeps_them(
    cluster: Cluster, pipelines: Pipelines, operator: Operator
) -> None:
    """And nothing comes of it where the cluster has one."""
    path = pipelines.path("Service", API)
    cluster.api.patch(path, {"spec": {"ipFamilyPolicy": "PreferDualStack"}})
    until_it_rests(cluster)
    pipelines.edit("split", router={"service": {"annotations": {"a": "b"}}})

    def annotated() -> bool:
        return cluster.api.get(path)["metadata"].get("annotations", {}).get("a") == "b"

    cluster.until(annotated, 30, "the Service was applied anew")
    assert families(cluster.api.get(path)["spec"]["clusterIPs"]) == cluster.families
