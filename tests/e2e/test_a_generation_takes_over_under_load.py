"""`spec.update.surge` with real pods: another revision of the model takes over while clients ask, or goes back.

No job is lost, and no picture is made by two generations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from testbed.deployment import revisions
from testbed.deployment.load import Load, Request, expected
from testbed.deployment.pipeline import MODEL_ROLES, Deployed
from testbed.examples import resource
from testbed.nodes.cluster import NodeCluster

CLIENTS = 2
SECONDS = 400.0
SURGE = {"stepPercent": 50, "pauseSeconds": 10}
CACHE_CLAIM = "hub"

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def digits(cluster: NodeCluster, deploy: Callable[..., Deployed]) -> Iterator[Deployed]:
    cache = {"type": "PersistentVolumeClaim", "claimName": CACHE_CLAIM, "readOnly": True, "downloadPolicy": "Never"}
    model = {"source": "Hub", "id": revisions.MODEL, "revision": revisions.ORIGINAL, "dtype": "float32", "cache": cache}
    pipeline = deploy(resource("digits", model=model, update={"surge": SURGE}), ready=False)
    namespace = pipeline.namespace
    for folder in cluster.add_shared_volume(f"{namespace}-hub", claim=f"{namespace}/{CACHE_CLAIM}"):
        revisions.fill(folder)
    claim = {
        "metadata": {"name": CACHE_CLAIM},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    cluster.api.post(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)
    pipeline.wait_ready(SECONDS)
    yield pipeline
    cluster.api.delete(f"/api/v1/persistentvolumes/{namespace}-hub")


def condition(pipeline: Deployed, kind: str) -> tuple[str, str]:
    found = pipeline.resources.condition(pipeline.name, kind)
    return found.get("status", ""), found.get("reason", "")


def is_taking_over(pipeline: Deployed) -> bool:
    return "surge" in pipeline.resources.get(pipeline.name)["status"].get("update", {})


def uids(pipeline: Deployed) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pipeline.pods()}


def test_one_that_fails_whatever_it_is_asked_goes_back_by_itself_and_costs_no_job(
    digits: Deployed, long_pictures: dict[Request, bytes]
) -> None:
    before = uids(digits)
    load = Load(digits, long_pictures, CLIENTS, SECONDS)
    with load.running():
        digits.until(lambda: len(load.done) > CLIENTS, SECONDS, "the pipeline is at work")
        digits.edit(model={"revision": revisions.BROKEN})
        digits.until(lambda: is_taking_over(digits), SECONDS, "another generation takes over")
        digits.until(lambda: len(uids(digits)) == 7, SECONDS, "it has come up beside the other")
        digits.until(lambda: condition(digits, "Stalled") == ("True", "RolledBack"), SECONDS, "it went back")
        digits.until(lambda: uids(digits) == before, SECONDS, "its pods are gone")
        done = len(load.done)
        digits.until(lambda: len(load.done) > done + CLIENTS, SECONDS, "jobs go on afterwards")
    assert any(job.attempts > 1 for job in load.done), "it was given no job"
    digits.until(digits.at_rest, SECONDS, "nothing is left in the pools")
    assert condition(digits, "Ready")[0] == "True"


def test_one_that_draws_takes_over_and_no_picture_is_of_both(
    digits: Deployed, long_pictures: dict[Request, bytes]
) -> None:
    router = digits.uid(digits.router_pod)
    before = {pod["metadata"]["uid"] for pod in digits.workers()}
    load = Load(digits, long_pictures, CLIENTS, SECONDS, judges=False)
    with load.running():
        digits.until(lambda: len(load.done) > CLIENTS, SECONDS, "the pipeline is at work")
        digits.edit(model={"revision": revisions.RETRAINED})
        digits.until(lambda: is_taking_over(digits), SECONDS, "another generation takes over")
        digits.until(lambda: not is_taking_over(digits), SECONDS, "it has taken over")
        digits.until(
            lambda: not before & {pod["metadata"]["uid"] for pod in digits.workers()}, SECONDS, "the other is gone"
        )
        done = len(load.done)
        digits.until(lambda: len(load.done) > done + CLIENTS, SECONDS, "jobs go on afterwards")
    digits.until(digits.at_rest, SECONDS, "nothing is left in the pools")
    assert digits.uid(digits.router_pod) == router
    assert sorted(pod["metadata"]["name"] for pod in digits.workers()) == sorted(f"digits-{r}-b-0" for r in MODEL_ROLES)
    retrained = expected(digits, list(long_pictures))
    assert all(retrained[request] != picture for request, picture in long_pictures.items())
    old, new = (
        [job for job in load.done if job.picture == pictures[job.request]] for pictures in (long_pictures, retrained)
    )
    assert old
    assert new
    assert len(old) + len(new) == len(load.done), "a picture is neither's"
    both = {pod for job in old for pod in job.pods.values()} & {pod for job in new for pod in job.pods.values()}
    assert not both, f"{both} worked for both"
