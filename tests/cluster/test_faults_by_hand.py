"""What people do to the children by hand, and to objects that have a child's name: put back, left alone, and told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import Pipelines, differences, pipeline
from testbed.controlplane.proxy import Call, Proxy, matching

PIPELINE: Final = pipeline(
    roles={"encoder": {}, "denoiser": {"replicas": 2}, "decoder": {"scaling": {"mode": "External"}}},
    networkPolicy={"mode": "Isolate"},
)
LABEL: Final = "diffusion-operator.dev/pipeline"
IMAGE: Final = {"template": {"spec": {"containers": [{"name": "main", "image": "registry.test/another:1"}]}}}


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    return operators("--router-address=127.0.0.1:1")


@pytest.fixture
def settled(cluster: Cluster, pipelines: Pipelines, operator: Operator) -> dict[str, Any]:
    """What there is of a pipeline at rest."""
    pipelines.create(PIPELINE)
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    return pipelines.state()


def until_as_before(cluster: Cluster, pipelines: Pipelines, before: dict[str, Any]) -> None:
    def all_pods_ready() -> bool:
        found = pipelines.api.items(pipelines.path("StatefulSet"))
        counts = [(one["spec"]["replicas"], one["status"].get("readyReplicas", 0)) for one in found]
        return len(counts) == sum(path.startswith("StatefulSet/") for path in before) and all(a == b for a, b in counts)

    def wrong() -> str:
        return "\n".join(differences(before, pipelines.state()))

    # This is for Kubernetes' own controllers to do, the rest is the operator's.
    cluster.until(all_pods_ready, 120, "all pods are ready")
    with contextlib.suppress(ClusterError):
        cluster.until(lambda: not wrong(), 30, "all is as before")
    assert wrong() == ""


@pytest.mark.parametrize(
    ("kind", "name", "patch", "field"),
    [
        ("StatefulSet", "digits-encoder", {"spec": {"replicas": 5}}, "spec.replicas"),
        ("StatefulSet", "digits-decoder", {"spec": {"replicas": 0}}, "spec.replicas"),
        ("StatefulSet", "digits-denoiser", {"spec": IMAGE}, "spec.template"),
        ("StatefulSet", "digits-router", {"metadata": {"labels": {LABEL: None}}}, f"metadata.labels.{LABEL}"),
        (
            "Service",
            "digits-router-api",
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}},
            "metadata.labels.app.kubernetes.io/managed-by",
        ),
        ("Service", "digits-router-api", {"spec": {"selector": {"app": "another"}}}, "spec.selector"),
        ("NetworkPolicy", "digits-workers", {"spec": {"ingress": [{}]}}, "spec.ingress"),
        ("ServiceAccount", "digits-pipeline", {"automountServiceAccountToken": True}, "automountServiceAccountToken"),
        ("StatefulSet", "digits-encoder", {"metadata": {"ownerReferences": None}}, "metadata.ownerReferences"),
    ],
)
def test_a_child_that_was_edited_is_put_back_and_its_pipeline_told(
    cluster: Cluster,
    pipelines: Pipelines,
    operator: Operator,
    settled: dict[str, Any],
    kind: str,
    name: str,
    patch: JSON,
    field: str,
) -> None:
    pipelines.api.patch(pipelines.path(kind, name), patch)
    cluster.until(lambda: pipelines.events("digits", "Reverted"), 30, "the pipeline is told")
    (message,) = pipelines.events("digits", "Reverted")
    assert message.startswith(f"{kind} {name}: {field}")
    assert "edit the DiffusionPipeline instead" in message
    assert operator.metric("diffusion_operator_reverted_children_total", kind=kind) == 1
    until_as_before(cluster, pipelines, settled)


def test_what_others_add_to_a_child_is_left_alone(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator, settled: dict[str, Any]
) -> None:
    mine = {"metadata": {"annotations": {"example.com/note": "mine"}, "labels": {"team": "mine"}}}
    before = proxy.count(matching("PATCH", "/statefulsets/"))
    pipelines.api.patch(pipelines.path("StatefulSet", "digits-encoder"), mine)
    pipelines.edit("digits", roles={"encoder": {"replicas": 2}})
    cluster.until(lambda: pipelines.replicas("digits-encoder") == 2, 30, "the edit is made so")
    labels = pipelines.child("StatefulSet", "digits-encoder")["metadata"]["labels"]
    assert labels["team"] == "mine"
    assert proxy.count(matching("PATCH", "/statefulsets/")) == before + 1
    assert pipelines.events("digits", "Reverted") == []


def test_children_that_were_deleted_come_back(
    cluster: Cluster, pipelines: Pipelines, operator: Operator, settled: dict[str, Any]
) -> None:
    found = [(item["kind"], item["metadata"]["name"]) for item in pipelines.objects()]
    children = [(kind, name) for kind, name in found if kind != "DiffusionPipeline"]
    assert len(children) > 12
    for kind, name in children:
        pipelines.api.delete(pipelines.path(kind, name))
    until_as_before(cluster, pipelines, settled)
    assert pipelines.events("digits", "Reverted") == []


def test_a_child_that_is_touched_while_others_are_made_is_put_back(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator, settled: dict[str, Any]
) -> None:
    def touch() -> None:
        pipelines.api.delete(pipelines.path("ServiceAccount", "digits-pipeline"))
        pipelines.api.patch(pipelines.path("Service", "digits-encoder"), {"spec": {"selector": {"app": "another"}}})

    # By the time that this request is made, both were compared.
    rule = proxy.rule(Call(touch), matching("PATCH", "/statefulsets/digits-decoder$"))
    pipelines.edit("digits", roles={"decoder": {"env": [{"name": "A", "value": "b"}]}})
    rule.wait(30)
    wanted = json.loads(json.dumps(settled))
    for path in (
        "DiffusionPipeline/digits",
        "DiffusionPipelineRoleScaler/digits-decoder",
        "StatefulSet/digits-decoder",
    ):
        del wanted[path]

    def rest() -> dict[str, Any]:
        return {path: item for path, item in pipelines.state().items() if path in wanted}

    cluster.until(lambda: rest() == wanted, 30, "all others are as before")


OF_OTHERS: Final[dict[tuple[str, str], JSON]] = {
    ("ServiceAccount", "digits-pipeline"): {},
    ("Service", "digits-decoder"): {"spec": {"ports": [{"name": "http", "port": 80}]}},
    ("NetworkPolicy", "digits-router"): {"spec": {"podSelector": {}}},
    ("PodDisruptionBudget", "digits-denoiser"): {"spec": {"selector": {"matchLabels": {"app": "mine"}}}},
    ("StatefulSet", "digits-encoder"): {
        "spec": {
            "serviceName": "mine",
            "replicas": 0,
            "selector": {"matchLabels": {"app": "mine"}},
            "template": {
                "metadata": {"labels": {"app": "mine"}},
                "spec": {"containers": [{"name": "mine", "image": "registry.test/mine:1"}]},
            },
        }
    },
    ("DiffusionPipelineRoleScaler", "digits-decoder"): {
        "spec": {"pipelineRef": {"name": "another"}, "role": "decoder", "replicas": 7}
    },
}
API_VERSIONS: Final = {
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "StatefulSet": "apps/v1",
    "DiffusionPipelineRoleScaler": "diffusion-operator.dev/v1alpha1",
}


def test_objects_of_others_that_have_a_childs_name_are_not_taken_over(
    cluster: Cluster, pipelines: Pipelines, operator: Operator
) -> None:
    mine = {}
    for (kind, name), body in OF_OTHERS.items():
        item = {"apiVersion": API_VERSIONS.get(kind, "v1"), "kind": kind, "metadata": {"name": name}, **body}
        mine[kind, name] = pipelines.api.post(pipelines.path(kind), item)
    pipelines.create(PIPELINE)
    cluster.until(lambda: pipelines.condition("digits", "Reconciled").get("status") == "False", 30, "it is told")
    told = pipelines.condition("digits", "Reconciled")
    assert told["reason"] == "NameConflict"
    assert "ServiceAccount digits-pipeline exists" in told["message"]
    scaling = pipelines.condition("digits", "ScalingReady")
    assert (scaling["status"], scaling["reason"]) == ("False", "NameConflict")
    assert "DiffusionPipelineRoleScaler digits-decoder" in scaling["message"]
    # The others are there.
    assert pipelines.replicas("digits-denoiser") == 2
    assert pipelines.replicas("digits-decoder") == 1
    for (kind, name), item in mine.items():
        live = pipelines.child(kind, name)
        assert live["metadata"]["uid"] == item["metadata"]["uid"]
        assert live.get("spec") == item.get("spec")
        assert "ownerReferences" not in live["metadata"]
        assert LABEL not in live["metadata"].get("labels", {})

    for kind, name in mine:
        pipelines.api.delete(pipelines.path(kind, name))
    cluster.until(lambda: pipelines.settled("digits"), 60, "without them it settles")
    assert pipelines.condition("digits", "ScalingReady")["status"] == "True"


def test_what_cannot_be_changed_is_told_and_the_rest_follows(
    cluster: Cluster, pipelines: Pipelines, operator: Operator, settled: dict[str, Any]
) -> None:
    path = pipelines.path("StatefulSet", "digits-denoiser")
    operator.kill()
    made_by_another_release = pipelines.child("StatefulSet", "digits-denoiser")
    made_by_another_release["spec"]["podManagementPolicy"] = "OrderedReady"
    del made_by_another_release["metadata"]["resourceVersion"], made_by_another_release["metadata"]["uid"]
    pipelines.api.delete(path, propagationPolicy="Orphan")
    cluster.until(lambda: not pipelines.api.exists(path), 30, "it is gone")
    pipelines.api.post(pipelines.path("StatefulSet"), made_by_another_release)
    operator.start()

    cluster.until(lambda: pipelines.condition("digits", "Reconciled")["status"] == "False", 30, "it is told")
    told = pipelines.condition("digits", "Reconciled")
    assert told["reason"] == "ImmutableFieldChanged"
    assert "StatefulSet digits-denoiser: spec.podManagementPolicy can't be changed" in told["message"]
    pipelines.edit("digits", roles={"denoiser": {"replicas": 3, "env": [{"name": "A", "value": "b"}]}})
    cluster.until(lambda: pipelines.replicas("digits-denoiser") == 3, 30, "the replicas follow")
    (container,) = pipelines.child("StatefulSet", "digits-denoiser")["spec"]["template"]["spec"]["containers"]
    assert {"name": "A", "value": "b"} in container["env"]
    assert operator.metric("rest_client_requests_total", code="422") == 0

    # What the message advises.
    pipelines.api.delete(path, propagationPolicy="Orphan")
    cluster.until(lambda: pipelines.settled("digits"), 60, "made anew it is as it should be")
    assert pipelines.child("StatefulSet", "digits-denoiser")["spec"]["podManagementPolicy"] == "Parallel"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/serviceaccounts/"),
        ("PATCH", "/statefulsets/digits-denoiser$"),
        ("POST", "/diffusionpipelinerolescalers$"),
        ("PATCH", "/diffusionpipelinerolescalers/[^/]+/status$"),
        ("PATCH", "/diffusionpipelines/digits/status$"),
    ],
)
def test_a_pipeline_that_is_made_anew_between_read_and_write_gets_its_own_children(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator, method: str, path: str
) -> None:
    made: list[str] = []

    def make_anew() -> None:
        pipelines.delete("digits")
        roles = {**PIPELINE["spec"]["roles"], "denoiser": {"replicas": 4}}
        anew = pipeline(roles=roles, networkPolicy={"mode": "None"})
        made.append(pipelines.create(anew)["metadata"]["uid"])

    rule = proxy.rule(Call(make_anew), matching(method, path))
    pipelines.create(PIPELINE)
    rule.wait(30)

    def owners() -> set[str]:
        found = [item for item in pipelines.objects() if item["kind"] != "DiffusionPipeline"]
        return {owner["uid"] for item in found for owner in item["metadata"].get("ownerReferences", [{"uid": ""}])}

    cluster.until(lambda: owners() == set(made), 90, "all children are the new one's")
    cluster.until(lambda: pipelines.settled("digits"), 60, "it has settled")
    assert owners() == set(made)
    assert pipelines.replicas("digits-denoiser") == 4
    assert not pipelines.api.exists(pipelines.path("NetworkPolicy", "digits-workers"))
