"""Pods are deleted, restarted, evicted and replaced by others of another image or model, while clients go on asking.

Each role has two workers; the router keeps its jobs on a volume, and is where that is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from testbed.controlplane.client import JSON
from testbed.controlplane.pipelines import GROUP
from testbed.controlplane.pods import is_ready
from testbed.deployment import revisions
from testbed.deployment.load import Load, Request, expected
from testbed.deployment.pipeline import MODEL_ROLES, Deployed, two_of_each
from testbed.examples import resource
from testbed.images.building import name as image_name
from testbed.nodes.cluster import NodeCluster

CLIENTS = 3
SECONDS = 300.0
HOME, AWAY = "node-1", "node-2"
CACHE_CLAIM = "hub"

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def served(cluster: NodeCluster, deploy: Callable[..., Deployed]) -> Iterator[Deployed]:
    pipeline = deploy(_document(), ready=False)
    namespace = pipeline.namespace
    cluster.add_volume(f"{namespace}-jobs", HOME, claim=f"{namespace}/data-{pipeline.router_pod}")
    for cache in cluster.add_shared_volume(f"{namespace}-hub", claim=f"{namespace}/{CACHE_CLAIM}"):
        revisions.fill(cache)
    cluster.api.post(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", _cache_claim())
    pipeline.wait_ready(SECONDS)
    yield pipeline
    for volume in ("jobs", "hub"):
        cluster.api.delete(f"/api/v1/persistentvolumes/{namespace}-{volume}")


def _document() -> JSON:
    cache = {"type": "PersistentVolumeClaim", "claimName": CACHE_CLAIM, "readOnly": True, "downloadPolicy": "Never"}
    document = resource(
        "digits",
        model={
            "source": "Hub",
            "id": revisions.MODEL,
            "revision": revisions.ORIGINAL,
            "dtype": "float32",
            "cache": cache,
        },
        router={"storage": {"type": "PersistentVolumeClaim", "size": "1Gi"}},
    )
    two_of_each(document, "ScheduleAnyway")
    return document


def _cache_claim() -> JSON:
    return {
        "metadata": {"name": CACHE_CLAIM},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.fixture
def digits(served: Deployed) -> Deployed:
    """Ready, with the model that is the monolith's."""
    served.edit(model={"revision": revisions.ORIGINAL})
    served.wait_ready(SECONDS)
    return served


@pytest.fixture
def load(digits: Deployed, long_pictures: dict[Request, bytes]) -> Load:
    return Load(digits, long_pictures, CLIENTS, SECONDS)


Change = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def change(
    request: pytest.FixtureRequest, load: Load, record_testsuite_property: Callable[[str, object], None]
) -> Change:
    """`with change(): …`: the body makes a change and waits until it is through; clients ask all the while."""

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        until = load.pipeline.until
        with load.running():
            until(lambda: len(load.done) > CLIENTS, SECONDS, "the pipeline is at work")
            begun = time.monotonic()
            yield
            ended = time.monotonic()
            until(lambda: sum(job.accepted_at > ended for job in load.done) > CLIENTS, SECONDS, "jobs go on afterwards")
        record_testsuite_property(request.node.name, _cost(load, begun, ended))
        until(load.pipeline.at_rest, SECONDS, "nothing is left in the pools")
        assert not load.again, f"steps were made twice: {load.again}"

    return changed


def _cost(load: Load, begun: float, ended: float) -> str:
    """Of a change, for those who read the results."""
    met = [job for job in load.done if job.accepted_at < ended and job.ended_at > begun]
    again = sum(job.attempts > 1 for job in met)
    slowest = max((job.seconds for job in met), default=0.0)
    return (
        f"{len(load.done)} jobs; {len(met)} met the {ended - begun:.0f} s of it, the slowest took {slowest:.1f} s; "
        f"{again} were given to another worker"
    )


@pytest.mark.parametrize("role", [*MODEL_ROLES, "router"])
def test_a_pod_that_is_deleted_is_replaced_and_no_job_is_lost(digits: Deployed, change: Change, role: str) -> None:
    pod = f"digits-{role}-0"
    uid = digits.uid(pod)
    with change():
        digits.delete_pod(pod)
        digits.until(lambda: digits.pod_ready(pod, other_than=uid), SECONDS, f"there is another {pod}")


def test_a_rollout_restart_of_every_role_loses_no_job(cluster: NodeCluster, digits: Deployed, change: Change) -> None:
    before = _uids(digits)
    with change():
        for role in (*MODEL_ROLES, "router"):
            rollout = (f"statefulset/digits-{role}", "--namespace", digits.namespace)
            cluster.kubectl("rollout", "restart", *rollout)
            cluster.kubectl("rollout", "status", *rollout, f"--timeout={SECONDS:.0f}s")
    after = _uids(digits)
    assert after.keys() == before.keys()
    assert not {*after.values()} & {*before.values()}


def test_drained_nodes_give_up_their_workers_one_of_a_role_at_a_time(
    cluster: NodeCluster, digits: Deployed, change: Change
) -> None:
    """First the one, so that all workers are on the other; then that one, which has both of every role."""
    with change():
        for node, other in ((AWAY, HOME), (HOME, AWAY)):
            least = _drain(cluster, digits, node)
            assert min(least.values()) >= 1, f"{node}: a role had no ready pod that was to stay: {least}"
            digits.until(lambda other=other: len(digits.workers(other)) == 2 * len(MODEL_ROLES), SECONDS, "all moved")
            cluster.kubectl("uncordon", node)
            digits.wait_ready(SECONDS)


def test_another_image_comes_as_another_generation_and_no_job_is_lost(
    cluster: NodeCluster, digits: Deployed, change: Change
) -> None:
    name = image_name("worker")
    cluster.tag_image(name, f"{name}-next")
    with change(), _another_generation(digits):
        digits.edit(image={"tag": f"{name.rpartition(':')[2]}-next"})
    images = {_image(pod) for pod in digits.workers()}
    assert images == {f"{name}-next".removeprefix("docker.io/")}


def test_another_revision_of_the_model_comes_as_another_generation_and_no_tensor_crosses(
    digits: Deployed, load: Load, change: Change, long_pictures: dict[Request, bytes]
) -> None:
    """Both revisions' pods register as the same model, and a picture of which each made a part would be neither's."""
    load.judges = False
    with change(), _another_generation(digits):
        digits.edit(model={"revision": revisions.RETRAINED})
    retrained = expected(digits, list(long_pictures))
    assert all(retrained[request] != picture for request, picture in long_pictures.items())
    before, after = (
        [job for job in load.done if job.picture == pictures[job.request]] for pictures in (long_pictures, retrained)
    )
    assert before
    assert after
    assert len(before) + len(after) == len(load.done), "a picture is neither's"


@contextlib.contextmanager
def _another_generation(pipeline: Deployed) -> Iterator[None]:
    """After the body, waits until all workers are of one generation that none was of before, under the same router."""
    before = {peer.generation for peer in pipeline.peers()}
    router = pipeline.uid(pipeline.router_pod)
    yield
    pipeline.wait_ready(SECONDS)
    pipeline.until(
        lambda: (
            len(pipeline.peers()) == 2 * len(MODEL_ROLES)
            and not before & {peer.generation for peer in pipeline.peers()}
        ),
        SECONDS,
        "all workers are of another generation",
    )
    assert len(before) == len({peer.generation for peer in pipeline.peers()}) == 1
    assert pipeline.uid(pipeline.router_pod) == router


def _drain(cluster: NodeCluster, pipeline: Deployed, node: str) -> dict[str, int]:
    """Evicts the pipeline's workers from a node. How many ready pods each role had at least, those that go left out."""
    workers = f"{GROUP}/pipeline={pipeline.name},{GROUP}/role!=router"
    least = dict.fromkeys(MODEL_ROLES, 2)
    drain = ("drain", node, f"--pod-selector={workers}", "--delete-emptydir-data", f"--timeout={SECONDS:.0f}s")
    with cluster.kubectl_running(*drain) as (process, said):

        def over() -> bool:
            ended = process.poll() is not None
            for role in MODEL_ROLES:
                least[role] = min(least[role], sum(map(is_ready, pipeline.pods(role))))
            return ended

        pipeline.until(over, SECONDS, f"{node} is drained")
        assert process.returncode == 0, said()
    return least


def _image(pod: JSON) -> str:
    return next(container["image"] for container in pod["spec"]["containers"] if container["name"] == "main")


def _uids(pipeline: Deployed) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pipeline.pods()}
