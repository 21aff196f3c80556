"""Verbs that the operator's role lacks are named where a user looks, and made up for once they are given; a namespace
that is deleted is left in peace."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from testbed.controlplane.access import allow
from testbed.controlplane.client import Refused
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import RULES, Operator, operator_user
from testbed.controlplane.pipelines import Pipelines, pipeline
from testbed.controlplane.proxy import Call, Proxy, matching

NO_ROUTER: Final = "--router-address=127.0.0.1:1"
EXTERNAL: Final = {"encoder": {}, "denoiser": {"scaling": {"mode": "External"}}, "decoder": {}}
ISOLATED: Final = {"mode": "Isolate"}


class Rights:
    """Of the operator, in the test's namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._user = f"operator:{namespace}"

    def take(self, resource: str, *verbs: str) -> None:
        rules = []
        for rule in RULES:
            if resource in rule["resources"]:
                left = [verb for verb in rule["verbs"] if verb not in verbs]
                rules.append({**rule, "resources": [resource], "verbs": left})
                rule = {**rule, "resources": [other for other in rule["resources"] if other != resource]}
            rules.append(rule)
        self._set([rule for rule in rules if rule["resources"] and rule["verbs"]])
        for verb in verbs:
            self._until(verb, resource, allowed=False)

    def give_back(self, resource: str, *verbs: str) -> None:
        self._set(list(RULES))
        for verb in verbs:
            self._until(verb, resource, allowed=True)

    def _set(self, rules: list[dict[str, Any]]) -> None:
        allow(self._cluster, self._user, rules, [self._namespace])

    def _until(self, verb: str, resource: str, *, allowed: bool) -> None:
        name, _, subresource = resource.partition("/")
        (group,) = {rule["apiGroups"][0] for rule in RULES if resource in rule["resources"]}
        attributes = {
            "namespace": self._namespace,
            "verb": verb,
            "group": group,
            "resource": name,
            "subresource": subresource,
        }
        review = {"spec": {"user": self._user, "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        self._cluster.until(
            lambda: self._cluster.api.post(path, review)["status"]["allowed"] == allowed, 30, "the role has its effect"
        )


@pytest.fixture
def rights(cluster: Cluster, namespace: str) -> Rights:
    return Rights(cluster, namespace)


@pytest.mark.parametrize(
    ("verb", "resource", "condition", "kind"),
    [
        ("patch", "services", "Reconciled", "Service digits-router"),
        ("patch", "statefulsets", "Reconciled", "StatefulSet digits-router"),
        ("create", "configmaps", "Reconciled", "ConfigMap digits-"),
        ("create", "diffusionpipelinerolescalers", "ScalingReady", "DiffusionPipelineRoleScaler digits-denoiser"),
        ("patch", "diffusionpipelinerolescalers/status", "ScalingReady", "DiffusionPipelineRoleScaler digits-denoiser"),
    ],
)
def test_a_verb_that_a_creation_lacks_is_named_until_it_is_given(
    cluster: Cluster,
    pipelines: Pipelines,
    operators: Callable[..., Operator],
    rights: Rights,
    verb: str,
    resource: str,
    condition: str,
    kind: str,
) -> None:
    operator = operators(NO_ROUTER)
    rights.take(resource, verb)
    pipelines.create(pipeline(roles=EXTERNAL))
    cluster.until(lambda: pipelines.condition("digits", condition).get("reason") == "Forbidden", 30, "it is told")
    told = pipelines.condition("digits", condition)
    assert told["message"].startswith(kind)
    assert f'cannot {verb} resource "{resource}"' in told["message"]
    # What can be done is done.
    others = {"statefulsets": "Service/digits-encoder"}.get(resource, "StatefulSet/digits-encoder")
    assert pipelines.api.exists(pipelines.path(*others.split("/")))
    assert operator.metric("rest_client_requests_total", code="403") > 0
    rights.give_back(resource, verb)
    cluster.until(lambda: pipelines.settled("digits"), 60, "with it the pipeline settles")
    assert pipelines.condition("digits", condition)["status"] == "True"


@pytest.mark.parametrize(
    ("resource", "kind", "name"),
    [
        ("networkpolicies", "NetworkPolicy", "digits-workers"),
        ("diffusionpipelinerolescalers", "DiffusionPipelineRoleScaler", "digits-denoiser"),
    ],
)
def test_a_verb_that_switching_a_feature_off_lacks_is_named_until_it_is_given(
    cluster: Cluster,
    pipelines: Pipelines,
    operators: Callable[..., Operator],
    rights: Rights,
    resource: str,
    kind: str,
    name: str,
) -> None:
    operators(NO_ROUTER)
    pipelines.create(pipeline(roles=EXTERNAL, networkPolicy=ISOLATED))
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    rights.take(resource, "delete")
    pipelines.edit("digits", networkPolicy={"mode": "None"}, roles={"denoiser": {"replicas": 2, "scaling": None}})
    cluster.until(lambda: pipelines.condition("digits", "Reconciled")["reason"] == "Forbidden", 30, "it is told")
    assert f'cannot delete resource "{resource}"' in pipelines.condition("digits", "Reconciled")["message"]
    assert pipelines.replicas("digits-denoiser") == 2
    assert pipelines.api.exists(pipelines.path(kind, name))
    rights.give_back(resource, "delete")
    cluster.until(lambda: pipelines.settled("digits"), 60, "with it the pipeline settles")
    assert not pipelines.api.exists(pipelines.path(kind, name))


@pytest.mark.parametrize("resource", ["statefulsets", "pods"])
def test_a_watch_that_is_forbidden_begins_once_it_is_allowed(
    cluster: Cluster,
    proxy: Proxy,
    pipelines: Pipelines,
    operators: Callable[..., Operator],
    rights: Rights,
    resource: str,
) -> None:
    operator = operators(NO_ROUTER)
    pipelines.create(pipeline())
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    rights.take(resource, "list", "watch")
    proxy.cut_watches()
    cluster.until(lambda: operator.metric("rest_client_requests_total", code="403") >= 2, 30, "it was tried")
    pipelines.edit("digits", roles={"denoiser": {"replicas": 2}})
    cluster.until(lambda: pipelines.replicas("digits-denoiser") == 2, 30, "the edit is made so all the same")
    rights.give_back(resource, "list", "watch")
    cluster.until(lambda: pipelines.settled("digits"), 60, "allowed, it sees what became of it")

    def restarts() -> float:
        return operator.metric("diffusion_operator_watch_restarts_total", resource=resource)

    cluster.until(lambda: restarts() >= 2, 30, "it is watched again")


@pytest.fixture
def everywhere(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[tuple[Proxy, Operator]]:
    """An operator whose rights do not go with the namespace."""
    user = f"everywhere:{namespace}"
    operator_user(cluster, user)
    with Proxy(cluster, user) as proxy, Operator(proxy.kubeconfig, NO_ROUTER, log=tmp_path / "operator.log") as running:
        yield proxy, running


@pytest.mark.parametrize("request_number", [1, 6, 14])
def test_a_namespace_that_is_deleted_meanwhile_is_left_in_peace(
    cluster: Cluster, pipelines: Pipelines, everywhere: tuple[Proxy, Operator], request_number: int
) -> None:
    proxy, operator = everywhere
    namespace = f"/api/v1/namespaces/{pipelines.namespace}"
    writes = matching("", f"/{pipelines.namespace}/(?!events)")

    def is_write(request: Any) -> bool:
        return request.method != "GET" and writes(request)

    for number in range(3):
        pipelines.create(pipeline(f"p{number}", roles=EXTERNAL))
    rule = proxy.rule(Call(lambda: cluster.api.delete(namespace)), is_write, skip=request_number)
    # In a namespace that is going already nothing can be made.
    with contextlib.suppress(Refused):
        for number in range(3, 5):
            pipelines.create(pipeline(f"p{number}", roles=EXTERNAL))
    rule.wait(30)
    before = len(proxy.requests)
    cluster.until(lambda: not cluster.api.exists(namespace), 60, "the namespace is gone")
    assert operator.answers("/healthz")
    # At most what had been begun of each pipeline, and a few attempts more.
    assert proxy.count(is_write, since=before) < 5 * 25
    log = [json.loads(line) for line in operator.log.read_text().splitlines()]
    loud = [line for line in log if line["level"] in {"warning", "error"}]
    assert len(loud) <= 15, loud
    assert not any("exception" in line for line in log)
    assert operator.metric("workqueue_retries_total") <= 15
