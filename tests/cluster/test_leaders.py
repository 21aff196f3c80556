"""Several replicas behind a Lease: one works at a time, and another takes over however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from testbed.controlplane.audit import Entry
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator, operator_user
from testbed.controlplane.pipelines import Pipelines, pipeline
from testbed.controlplane.proxy import ANY, Call, Freeze, Proxy, matching

LEASE_SECONDS: Final = 6
# How often a replica looks at the Lease, and what a busy machine may add.
LOOK_SECONDS: Final = LEASE_SECONDS * 2 / 15
SLACK_SECONDS: Final = 5
EXIT_LEASE_LOST: Final = 3


class Replica:
    """An operator with a way of its own to the API server."""

    def __init__(self, operator: Operator, proxy: Proxy) -> None:
        self.operator = operator
        self.proxy = proxy

    @property
    def leads(self) -> bool:
        return self.operator.metric("leader_election_master_status", name="diffusion-operator") == 1


@pytest.fixture
def replicas(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """The first leads."""
    user = f"operator:{namespace}"
    operator_user(cluster, user, namespaces=[namespace], lease_namespace=namespace)
    with contextlib.ExitStack() as stack:
        found = []
        for number in (1, 2):
            proxy = stack.enter_context(Proxy(cluster, user))
            operator = Operator(
                proxy.kubeconfig,
                f"--watch-namespaces={namespace}",
                "--router-address=127.0.0.1:1",
                "--leader-elect",
                f"--lease-namespace={namespace}",
                f"--lease-seconds={LEASE_SECONDS}",
                log=tmp_path / f"replica-{number}.log",
            )
            found.append(Replica(stack.enter_context(operator), proxy))
            cluster.until(lambda: found[0].leads, 30, "the first leads")
        yield found[0], found[1]


@pytest.fixture
def pipelines(cluster: Cluster, namespace: str, replicas: tuple[Replica, Replica]) -> Pipelines:
    """With a settled one."""
    made = Pipelines(cluster.api, namespace)
    made.create(pipeline())
    cluster.until(lambda: made.settled("digits"), 60, "the pipeline has settled")
    return made


def until_leads(cluster: Cluster, replica: Replica, seconds: float) -> float:
    """Returns how long it took."""
    began = time.monotonic()
    cluster.until(lambda: replica.leads, seconds, "the other replica leads", longest_pause=0.02)
    return time.monotonic() - began


def until_scaled(cluster: Cluster, pipelines: Pipelines, replicas: int) -> None:
    pipelines.edit("digits", roles={"denoiser": {"replicas": replicas}})
    cluster.until(lambda: pipelines.replicas("digits-denoiser") == replicas, 30, "the edit is made so")


def holder(pipelines: Pipelines) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pipelines.namespace}/leases/diffusion-operator"
    found: str = pipelines.api.get(path)["spec"]["holderIdentity"]
    return found


def test_one_works_and_the_other_stands_by(
    cluster: Cluster, pipelines: Pipelines, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    assert first.leads
    assert not second.leads
    # A rollout of the operator's own Deployment waits for followers to be ready.
    assert second.operator.answers("/readyz")
    assert second.operator.answers("/healthz")
    asked = {request.path.split("/")[-2] for request in second.proxy.requests}
    assert asked == {"leases", "customresourcedefinitions"}


def test_of_a_leader_that_is_killed_another_takes_over_within_the_lease(
    cluster: Cluster, pipelines: Pipelines, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    first.operator.kill()
    pipelines.api.delete(pipelines.path("StatefulSet", "digits-encoder"))
    pipelines.edit("digits", roles={"denoiser": {"replicas": 3}})
    until_leads(cluster, second, LEASE_SECONDS + LOOK_SECONDS + SLACK_SECONDS)
    cluster.until(lambda: pipelines.replicas("digits-denoiser") == 3, 30, "the edit is made so")
    cluster.until(lambda: pipelines.replicas("digits-encoder") == 1, 30, "what was deleted is back")
    cluster.until(lambda: pipelines.settled("digits"), 30, "the pipeline has settled")
    # It comes back as one that stands by.
    first.operator.start()
    assert second.leads
    assert not first.leads


@pytest.mark.parametrize("how", ["refused", "never-answered"])
def test_a_leader_that_is_cut_off_ends_before_another_leads(
    cluster: Cluster, pipelines: Pipelines, replicas: tuple[Replica, Replica], how: str
) -> None:
    first, second = replicas
    mark = cluster.audit.mark()
    if how == "refused":
        first.proxy.down()
    else:
        first.proxy.rule(Freeze(), ANY)
    cluster.until(
        lambda: first.operator.exit_code is not None or second.leads, LEASE_SECONDS + SLACK_SECONDS, "one of both"
    )
    assert not second.leads
    assert first.operator.exit_code == EXIT_LEASE_LOST
    until_leads(cluster, second, LEASE_SECONDS + LOOK_SECONDS + SLACK_SECONDS)
    until_scaled(cluster, pipelines, 2)
    writes = [entry for entry in cluster.audit.writes(mark, user=f"operator:{pipelines.namespace}") if of_child(entry)]
    assert [entry.name for entry in writes if entry.resource == "statefulsets"] == ["digits-denoiser"]


def of_child(entry: Entry) -> bool:
    return entry.resource not in {"leases", "events"}


def test_a_leader_that_is_asked_to_end_hands_over_at_once(
    cluster: Cluster, pipelines: Pipelines, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    before = holder(pipelines)
    assert first.operator.stop() == 0
    took = until_leads(cluster, second, LEASE_SECONDS)
    assert took < LEASE_SECONDS / 2
    assert holder(pipelines) != before
    until_scaled(cluster, pipelines, 2)


def test_a_leader_ends_what_it_has_begun_before_it_hands_over(
    cluster: Cluster, pipelines: Pipelines, replicas: tuple[Replica, Replica]
) -> None:
    first, second = replicas
    asked = len(first.proxy.requests)
    told = first.proxy.rule(
        Call(lambda: os.kill(first.operator.pid, signal.SIGTERM)), matching("PATCH", "/statefulsets/second-router$")
    )
    pipelines.create(pipeline("second"))
    told.wait(30)
    until_leads(cluster, second, 30)
    cluster.until(lambda: first.operator.exit_code is not None, 30, "it has ended")
    assert first.operator.exit_code == 0
    made = [request.path for request in first.proxy.requests[asked:] if request.method == "PATCH"]
    stateful_sets = [path.rpartition("/")[2] for path in made if "/statefulsets/" in path]
    assert stateful_sets == [f"second-{role}" for role in ("router", "encoder", "denoiser", "decoder")]
    cluster.until(lambda: pipelines.settled("second"), 60, "the pipeline has settled")
