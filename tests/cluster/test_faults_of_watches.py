"""Watches break, are too old, or say nothing; what happened meanwhile is made up for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import pytest

from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import Pipelines, differences, pipeline
from testbed.controlplane.proxy import Expired, Hang, Proxy, matching

NO_ROUTER: Final = "--router-address=127.0.0.1:1"
WATCHED: Final = (
    *("configmaps", "controllerrevisions", "events", "networkpolicies", "poddisruptionbudgets", "pods"),
    *("serviceaccounts", "services", "statefulsets", "daemonsets", "modelcaches"),
    *("diffusionpipelines", "diffusionpipelinerolescalers"),  # by kopf
)
CHILDREN: Final = (
    ("ServiceAccount", "digits-pipeline"),
    ("Service", "digits-router-api"),
    ("Service", "digits-decoder"),
    ("NetworkPolicy", "digits-workers"),
    ("StatefulSet", "digits-encoder"),
    ("StatefulSet", "digits-router"),
    ("PodDisruptionBudget", "digits-denoiser"),
    ("DiffusionPipelineRoleScaler", "digits-decoder"),
)
PIPELINE: Final = pipeline(
    roles={"encoder": {}, "denoiser": {"replicas": 2}, "decoder": {"scaling": {"mode": "External"}}},
    networkPolicy={"mode": "Isolate"},
)


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    # What kopf misses while its stream begins anew, a resync finds.
    return operators(NO_ROUTER, "--resync-seconds=3")


def names_pipeline(operator: Operator, name: str) -> bool:
    return operator.metric("diffusion_pipeline_info", name=name) > 0


def restarts(operator: Operator, resource: str) -> float:
    return operator.metric("diffusion_operator_watch_restarts_total", resource=resource)


def test_after_all_watches_were_cut_news_come_again(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
) -> None:
    pipelines.create(PIPELINE)
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    for count in (3, 1, 4):
        cluster.until(lambda: proxy.watches() >= len(WATCHED), 30, "everything is watched")
        assert proxy.cut_watches() > 0
        pipelines.edit("digits", roles={"denoiser": {"replicas": count}})
        pipelines.api.delete(pipelines.path("Service", "digits-encoder"))
        cluster.until(lambda count=count: pipelines.replicas("digits-denoiser") == count, 30, "the edit is made so")  # type: ignore[misc]
        cluster.until(lambda: pipelines.api.exists(pipelines.path("Service", "digits-encoder")), 30, "it is back")
    for resource in WATCHED[:-2]:
        cluster.until(lambda resource=resource: restarts(operator, resource) >= 3, 30, f"{resource}: watched anew")  # type: ignore[misc]


def test_what_was_deleted_before_watches_that_are_too_old_is_noticed(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
) -> None:
    pipelines.create(PIPELINE)
    pipelines.create(pipeline("second"))
    cluster.until(lambda: pipelines.settled("digits") and pipelines.settled("second"), 60, "both have settled")
    before = pipelines.state()
    proxy.down()
    too_old = [proxy.rule(Expired(), matching("GET", f"/{resource}$", watch=True)) for resource in WATCHED]
    for kind, name in CHILDREN:
        pipelines.api.delete(pipelines.path(kind, name))
    pipelines.delete("second")
    proxy.up()
    cluster.until(lambda: all(rule.hits for rule in too_old), 60, "every watch was too old once")
    cluster.until(lambda: not names_pipeline(operator, "second"), 30, "the deleted pipeline is forgotten")
    left = {path: item for path, item in before.items() if "second" not in path}
    left["pods"] = [pod for pod in before["pods"] if not pod.startswith("second")]

    def wrong() -> list[str]:
        return list(differences(left, pipelines.state()))

    with contextlib.suppress(Exception):
        cluster.until(lambda: not wrong(), 60, "all is as before")
    assert wrong() == []
    for resource in WATCHED[:-2]:
        assert restarts(operator, resource) > 0, resource


def test_what_was_deleted_and_made_anew_in_the_gap_is_another(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
) -> None:
    pipelines.create(PIPELINE)
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    proxy.down()
    for resource in WATCHED:
        proxy.rule(Expired(), matching("GET", f"/{resource}$", watch=True))
    pipelines.delete("digits")
    roles = {"encoder": {}, "denoiser": {"replicas": 3}, "decoder": {}}
    anew = pipelines.create(pipeline(roles=roles, networkPolicy={"mode": "None"}))
    proxy.up()

    def owners() -> set[str]:
        found = [item for item in pipelines.objects() if item["kind"] != "DiffusionPipeline"]
        return {owner["uid"] for item in found for owner in item["metadata"]["ownerReferences"]}

    cluster.until(lambda: owners() == {anew["metadata"]["uid"]}, 90, "all children are the new one's")
    cluster.until(lambda: pipelines.settled("digits"), 60, "it has settled")
    assert pipelines.replicas("digits-denoiser") == 3
    assert not pipelines.api.exists(pipelines.path("NetworkPolicy", "digits-workers"))


def test_orphaned_children_are_not_taken_back_for_a_pipeline_whose_deletion_no_watch_told_of(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operators: Callable[..., Operator]
) -> None:
    operator = operators(NO_ROUTER, "--resync-seconds=3600")
    pipelines.create(PIPELINE)
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")

    def owners() -> dict[str, list[str]]:
        children = (item for item in pipelines.objects() if item["kind"] != "DiffusionPipeline")
        return {
            item["metadata"]["uid"]: [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]
            for item in children
        }

    before = owners()
    deaf = proxy.rule(Hang(), matching("GET", "/diffusionpipelines$", watch=True), times=None)
    proxy.cut_watches()
    deaf.wait(60)
    pipelines.api.delete(pipelines.path("DiffusionPipeline", "digits"), propagationPolicy="Orphan")
    cluster.until(lambda: not names_pipeline(operator, "digits"), 60, "the deleted pipeline is forgotten")
    path = pipelines.path("DiffusionPipeline", "digits")
    cluster.until(lambda: not pipelines.api.exists(path), 60, "the pipeline is gone")
    # An owner that is gone would have its children collected.
    assert owners() == {uid: [] for uid in before}
