"""Nodes without power and nodes that do not hear each other, while jobs run.

Each role has a worker on each of the two nodes. The router is where its volume is, and so is the operator at first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import httpx
import pytest
from grpc import RpcError

from testbed.deployment.load import Done, Load, Request
from testbed.deployment.operator import NAMESPACE as OPERATORS
from testbed.deployment.pipeline import MODEL_ROLES, Deployed, two_of_each
from testbed.examples import resource
from testbed.nodes.cluster import NodeCluster

CLIENTS = 3
LEASE_SECONDS = 5
# As long as it takes nodes to be found lost, pods to be made and to start, beside others on the same machine.
SECONDS = 300.0

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True)
class Place:
    """A pipeline, the node of its router and the other one."""

    pipeline: Deployed
    home: str
    away: str

    def workers(self, node: str) -> set[str]:
        """Names of the pods."""
        return {pod["metadata"]["name"] for pod in self.pipeline.workers(node)}

    def incarnations(self) -> dict[str, str]:
        """By pod; empty while the router does not answer."""
        try:
            return {peer.pod_name: peer.incarnation for peer in self.pipeline.peers()}
        except RpcError:
            return {}

    def has_tasks(self, pods: set[str]) -> bool:
        """Whether a denoiser among these pods computes and another job is on its way to it."""
        return any(
            peer.tasks > 1 for peer in self.pipeline.peers() if peer.pod_name in pods and "denoiser" in peer.pod_name
        )

    def says(self, kind: str, status: str, reason: str, *words: str) -> bool:
        """Of a condition."""
        found = self.pipeline.resources.condition(self.pipeline.name, kind)
        return (found["status"], found["reason"]) == (status, reason) and all(
            word in found["message"] for word in words
        )

    def until_half_is_ready(self, why: str, what: str) -> None:
        half = ("Ready", "False", "RolesNotReady", "1 of 2 ready", why)
        self.pipeline.until(lambda: self.says(*half), SECONDS, what)


@pytest.fixture(scope="module")
def place(cluster: NodeCluster, deploy: Callable[..., Deployed]) -> Iterator[Place]:
    home = operators_node(cluster)
    (away,) = cluster.nodes.keys() - {home}
    router = {"leaseSeconds": LEASE_SECONDS, "storage": {"type": "PersistentVolumeClaim", "size": "1Gi"}}
    document = resource("digits", router=router)
    two_of_each(document, "DoNotSchedule")
    pipeline = deploy(document, ready=False)
    volume = f"{pipeline.namespace}-jobs"
    cluster.add_volume(volume, home, claim=f"{pipeline.namespace}/data-{pipeline.router_pod}")
    pipeline.wait_ready(SECONDS)
    found = Place(pipeline, home, away)
    assert pipeline.pod(pipeline.router_pod)["spec"]["nodeName"] == home
    yield found
    cluster.api.delete(f"/api/v1/persistentvolumes/{volume}")


@pytest.fixture
def load(place: Place, long_pictures: dict[Request, bytes]) -> Load:
    """On a pipeline that has all its workers."""
    for node in (place.home, place.away):
        assert {name.split("-")[1] for name in place.workers(node)} == set(MODEL_ROLES)
    return Load(place.pipeline, long_pictures, CLIENTS, SECONDS)


@pytest.fixture
def tell(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> Callable[[Load, float], None]:
    """Writes down what a fault cost, for those who read the results."""

    def told(load: Load, fault: float) -> None:
        met, again = met_by(load, fault), interrupted(load, fault)
        before = median(job.seconds for job in load.done if job.ended_at < fault)
        words = (
            f"{len(load.done)} jobs; {len(met)} under way at the fault, {len(again)} of them tried again; they ended "
            f"{[round(job.ended_at - fault, 1) for job in met]} s after it; before it a job took {before:.1f} s"
        )
        record_testsuite_property(request.node.name, words)

    return told


def test_a_node_of_workers_without_power_costs_time_and_no_job(
    cluster: NodeCluster, place: Place, load: Load, tell: Callable[[Load, float], None]
) -> None:
    pipeline = place.pipeline
    near, lost = place.workers(place.home), place.workers(place.away)
    before = place.incarnations()
    with load.running():
        pipeline.until(lambda: load.done and place.has_tasks(lost), SECONDS, "the node is at work")
        with cluster.power_cut(place.away):
            cut = time.monotonic()
            pipeline.until(lambda: enough(load, near, cut), SECONDS, "the other node's workers go on")
            place.until_half_is_ready("NodeNotReady", "the status names the node's silence")
            assert place.says("Available", "True", "Available")
            assert place.incarnations().keys() == near
            pipeline.until(lambda: not place.workers(place.away), SECONDS, "its pods are given up")
            place.until_half_is_ready("NodeNotReady", "the status names the node's silence still")
        back = time.monotonic()
        pipeline.wait_ready(SECONDS)
        after = place.incarnations()
        assert {name: after[name] for name in near} == {name: before[name] for name in near}
        assert after.keys() == before.keys() == near | lost
        assert not {after[name] for name in lost} & set(before.values())
        pipeline.until(lambda: has_part(load, lost, back), SECONDS, "the pods that are back get work")
    tell(load, cut)
    assert interrupted(load, cut)
    pipeline.until(pipeline.at_rest, SECONDS, "nothing is left in the pools")


def test_workers_beyond_a_partition_are_fenced_and_come_back_as_others(
    cluster: NodeCluster, place: Place, load: Load, tell: Callable[[Load, float], None]
) -> None:
    pipeline = place.pipeline
    near, beyond = place.workers(place.home), place.workers(place.away)
    before = place.incarnations()
    uids = {name: pipeline.uid(name) for name in beyond}
    with load.running():
        pipeline.until(lambda: load.done and place.has_tasks(beyond), SECONDS, "both nodes are at work")
        with cluster.partition(place.home, place.away):
            cut = time.monotonic()
            pipeline.until(lambda: place.incarnations().keys() == near, SECONDS, "the peers beyond are lost")
            fenced = time.monotonic()
            pipeline.until(lambda: enough(load, near, fenced), SECONDS, "the router's side goes on")
            place.until_half_is_ready("NotReady", "the status tells of workers that have no router")
            assert place.says("Available", "True", "Available")
        healed = time.monotonic()
        pipeline.wait_ready(SECONDS)
        after = place.incarnations()
        assert after.keys() == before.keys()
        assert {name: after[name] for name in near} == {name: before[name] for name in near}
        assert not {after[name] for name in beyond} & set(before.values())
        pipeline.until(lambda: has_part(load, beyond, healed), SECONDS, "the workers that are back get work")
    tell(load, cut)
    assert interrupted(load, cut)
    assert {name: pipeline.uid(name) for name in beyond} == uids
    pipeline.until(pipeline.at_rest, SECONDS, "nothing is left in the pools")


def test_jobs_outlive_their_routers_node_on_a_volume(
    cluster: NodeCluster, place: Place, load: Load, tell: Callable[[Load, float], None]
) -> None:
    pipeline = place.pipeline
    earlier = jobs(pipeline)
    stay = place.workers(place.away)
    before = place.incarnations()
    with load.running():
        pipeline.until(lambda: load.done and place.has_tasks(stay), SECONDS, "both nodes are at work")
        with cluster.power_cut(place.home):
            cut = time.monotonic()
            for kind in ("RouterReady", "Available", "Ready"):
                pipeline.until(
                    lambda kind=kind: place.says(kind, "False", "RouterNotReady"),
                    SECONDS,
                    f"{kind} says that there is no router",
                )
            assert place.says("Ready", "False", "RouterNotReady", "NodeNotReady")
        back = time.monotonic()
        pipeline.wait_ready(SECONDS)
        pipeline.until(lambda: enough(load, stay, back), SECONDS, "jobs go on")
        after = place.incarnations()
        assert {name: after[name] for name in stay} == {name: before[name] for name in stay}
    tell(load, cut)
    assert met_by(load, cut)
    # Each client's request is one job, however often it was sent.
    assert jobs(pipeline) - earlier == {job.job for job in load.done}
    assert len({job.job for job in load.done}) == len(load.done)
    pipeline.until(pipeline.at_rest, SECONDS, "nothing is left in the pools")


def operators_node(cluster: NodeCluster) -> str:
    (pod,) = cluster.api.items(f"/api/v1/namespaces/{OPERATORS}/pods")
    return str(pod["spec"]["nodeName"])


def jobs(pipeline: Deployed) -> set[str]:
    """Ids of all jobs that the router knows."""
    answer = httpx.get(f"{pipeline.url()}/v1/jobs", params={"limit": 1000}, timeout=30, trust_env=False)
    answer.raise_for_status()
    found = [job["id"] for job in answer.json()["data"]]
    assert len(found) < 1000, "the list may be cut off"
    return set(found)


def enough(load: Load, pods: set[str], since: float) -> bool:
    """Whether there are more jobs than clients that ended since, by these pods' work alone."""
    late = [job for job in load.done if job.ended_at > since and set(job.pods.values()) <= pods]
    return len(late) > CLIENTS


def has_part(load: Load, pods: set[str], since: float) -> bool:
    """Whether each of these pods has had a stage of a job that was accepted since."""
    return pods <= {pod for job in load.done if job.accepted_at > since for pod in job.pods.values()}


def met_by(load: Load, fault: float) -> list[Done]:
    """Jobs that were under way when it happened."""
    return [job for job in load.done if job.accepted_at < fault < job.ended_at]


def interrupted(load: Load, fault: float) -> list[Done]:
    """Those of them that lost a task."""
    return [job for job in met_by(load, fault) if job.attempts > 1]
