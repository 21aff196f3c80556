"""What only the router knows: which workers are registered, and over what network their tensors travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cluster.fake_router import FakeRouter
from cluster.user import User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "digits")


@pytest.fixture
def router(operators: Callable[..., Operator]) -> Iterator[FakeRouter]:
    with FakeRouter() as router:
        operators(router.flag)
        yield router


def workers(user: User) -> list[JSON]:
    """Pods, once they are all ready."""
    user.until_condition("ModelReady", "True", "Loaded")
    return [pod for role in ("encoder", "denoiser", "decoder") for pod in user.pods(role)]


def test_a_pipeline_is_ready_once_its_workers_are_registered(user: User, router: FakeRouter) -> None:
    user.apply_example("digits.yaml")
    pods = workers(user)
    user.until_condition("Ready", "False", "PeersNotRegistered", "encoder: 0 of 1 ready pod registered")
    router.register(pods, "mooncake-tcp")
    user.until_ready()
    user.until_condition("PeersRegistered", "True", "Registered")
    user.until_condition(
        "TransportReady",
        "True",
        "InUse",
        "peers use tcp; 3 workers pulled from themselves at 1.9 GB/s, 1 denoiser from an encoder at 1.1 GB/s, "
        "1 decoder from a denoiser at 1.1 GB/s",
    )
    user.until_condition("RouterReady", "True", "RegistryAnswers")
    assert user.columns()["TRANSPORT"] == "tcp"
    assert user.status()["router"]["readyPeers"] == 3


def test_falling_back_to_tcp_is_told_where_it_is_allowed(user: User, router: FakeRouter) -> None:
    user.make(rdma("Allow"))
    router.register(workers(user), "mooncake-tcp")
    user.until_condition("TransportReady", "False", "FallbackToTCP", "peers use tcp, not rdma")
    user.until_condition("Ready", "True", "Ready", "all roles are ready; peers use tcp, not rdma")
    assert user.columns()["TRANSPORT"] == "tcp"


def test_a_pipeline_that_forbids_tcp_never_becomes_ready_on_it(user: User, router: FakeRouter) -> None:
    made = user.make(rdma("Deny"))
    router.register(workers(user), "mooncake-tcp")
    user.until_condition("Ready", "False", "TransportDegraded", "peers use tcp, not rdma")
    assert "True" not in readiness(user, made["metadata"]["resourceVersion"])
    router.register(workers(user), "mooncake-rdma")
    user.until_ready()
    assert user.columns()["TRANSPORT"] == "rdma"


def test_a_ready_worker_that_is_not_registered_is_told_of(user: User, router: FakeRouter) -> None:
    user.make(rdma("Allow"))
    pods = workers(user)
    router.register(pods, "mooncake-rdma")
    user.until_ready()
    user.edit(roles={"decoder": {"replicas": 2}})
    user.until_condition("Ready", "False", "PeersNotRegistered", "decoder: 1 of 2 ready pods registered")


def test_a_way_between_two_workers_that_is_closed_is_told_and_that_it_opened(user: User, router: FakeRouter) -> None:
    user.apply_example("digits.yaml")
    router.register(workers(user), "mooncake-tcp")
    router.cut("digits-denoiser-0", "connection refused")
    told = "digits-denoiser-0 can't pull from digits-encoder-0: connection refused"
    user.until_condition("TransportReady", "False", "PeerUnreachable", told)
    user.until_condition("Ready", "False", "TransportDegraded", told)
    router.cut("digits-denoiser-0", "")
    user.until_ready()
    user.until_condition("TransportReady", "True", "InUse", "1 denoiser from an encoder at 1.1 GB/s")


def rdma(fallback: str) -> JSON:
    transport = {"protocol": "rdma", "fallback": fallback, "rdma": {"resourceName": "rdma/hca"}}
    return {"model": {"source": "Bundled"}, "transport": transport}


def readiness(user: User, since: str) -> list[str]:
    """Every state that the condition Ready of a pipeline had."""
    found = []
    events = user.api.watch(
        user.pipelines, fieldSelector=f"metadata.name={user.name}", resourceVersion=since, timeoutSeconds="1"
    )
    for event in events:
        conditions = event["object"].get("status", {}).get("conditions", ())
        found += [one["status"] for one in conditions if one["type"] == "Ready"]
    return found
