"""The operator may do what its code does, where it is to do it, and nothing else.

The resource itself it may only read, so it puts no finalizer and no annotation on it (I8).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pytest

from diffusion_operator.api import GROUP
from diffusion_operator.cluster import kinds
from unit.chart.charts import EVERYTHING, NAMESPACE, PROMETHEUS, Object, Rendered, merged, render

Rights = dict[tuple[str, str], set[str]]
"""Verbs by API group and resource; a resource of which only named objects are meant has their names behind it."""

WATCHED = {"get", "list", "watch"}
OWNED = WATCHED | {"create", "patch", "delete"}

IN_A_NAMESPACE: Rights = {
    (GROUP, "diffusionpipelines"): WATCHED,
    (GROUP, "diffusionpipelines/status"): {"patch"},
    (GROUP, "modelcaches"): WATCHED,
    (GROUP, "modelcaches/status"): {"patch"},
    (GROUP, "diffusionpipelinerolescalers"): OWNED,
    (GROUP, "diffusionpipelinerolescalers/status"): {"patch"},
    ("", "services"): OWNED,
    ("", "configmaps"): OWNED,
    ("", "serviceaccounts"): OWNED,
    ("apps", "statefulsets"): OWNED,
    ("apps", "controllerrevisions"): OWNED,
    ("apps", "daemonsets"): OWNED,
    ("policy", "poddisruptionbudgets"): OWNED,
    ("networking.k8s.io", "networkpolicies"): OWNED,
    ("monitoring.coreos.com", "podmonitors"): OWNED,
    ("", "persistentvolumeclaims"): {"list", "patch"},
    ("", "pods"): {"list", "watch"},
    ("", "events"): {"list", "watch", "create", "patch"},
}
DEFINITIONS: Rights = {
    (
        "apiextensions.k8s.io",
        f"customresourcedefinitions: diffusionpipelinerolescalers.{GROUP}, diffusionpipelines.{GROUP}, "
        f"modelcaches.{GROUP}",
    ): {"get"}
}
NODES: Rights = {("", "nodes"): {"list"}}
LEASES: Rights = {
    ("coordination.k8s.io", "leases: diffusion-diffusion-operator"): {"get", "update"},
    ("coordination.k8s.io", "leases"): {"create"},
}
ACCOUNT = {"kind": "ServiceAccount", "name": "diffusion-diffusion-operator", "namespace": NAMESPACE}


def rights(rules: Iterable[Object]) -> Rights:
    found: Rights = defaultdict(set)
    for rule in rules:
        names = ", ".join(sorted(rule.get("resourceNames", ())))
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found[group, f"{resource}: {names}" if names else resource] |= set(rule["verbs"])
    return dict(found)


def granted(rendered: Rendered, subject: Object) -> dict[str, Rights]:
    """What a subject may do, by namespace; "" is the whole cluster."""
    roles = {
        (role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"]): role for role in _roles(rendered)
    }
    found: dict[str, Rights] = {}
    for binding in rendered.of("RoleBinding") + rendered.of("ClusterRoleBinding"):
        if subject in binding["subjects"]:
            where = binding["metadata"].get("namespace")
            reference = binding["roleRef"]
            role = roles[reference["kind"], where if reference["kind"] == "Role" else None, reference["name"]]
            for key, verbs in rights(role["rules"]).items():
                found.setdefault(where or "", {}).setdefault(key, set()).update(verbs)
    return found


def _roles(rendered: Rendered) -> list[Object]:
    return rendered.of("Role") + rendered.of("ClusterRole")


def test_for_the_whole_cluster() -> None:
    assert granted(render(), ACCOUNT) == {"": IN_A_NAMESPACE | DEFINITIONS | NODES}


def test_for_some_namespaces_it_may_nothing_beyond_but_read_its_own_definitions() -> None:
    rendered = render({"watchNamespaces": ["paint", "film"]})
    assert granted(rendered, ACCOUNT) == {"paint": IN_A_NAMESPACE, "film": IN_A_NAMESPACE, "": DEFINITIONS}


def test_the_lease_is_a_right_of_the_release_s_own_namespace() -> None:
    elected = {"leaderElection": {"enabled": True}}
    assert granted(render(elected), ACCOUNT)[NAMESPACE] == LEASES
    assert NAMESPACE not in granted(render(), ACCOUNT)
    assert granted(render(merged(elected, {"watchNamespaces": ["paint"]})), ACCOUNT) == {
        "paint": IN_A_NAMESPACE,
        NAMESPACE: LEASES,
        "": DEFINITIONS,
    }


def test_every_kind_that_the_operator_handles_is_one_that_it_may() -> None:
    handled = {
        (kind.api_version.rpartition("/")[0], kind.plural): kind
        for kind in vars(kinds).values()
        if isinstance(kind, kinds.Kind)
    }
    allowed = {(group, resource.partition(":")[0]) for group, resource in IN_A_NAMESPACE | DEFINITIONS | NODES | LEASES}
    assert handled.keys() == {(group, resource) for group, resource in allowed if "/" not in resource}


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, {"watchNamespaces": ["paint"]}], ids=["plain", "everything", "some"]
)
def test_no_rule_has_a_wildcard_or_reads_secrets(values: dict[str, Any]) -> None:
    for role in _roles(render(values, apis=PROMETHEUS)):
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "escalate", "bind", "impersonate"}
            assert not any(word.endswith("/*") for word in words)


def test_the_pod_of_helm_test_has_an_account_without_any_right() -> None:
    rendered = render(EVERYTHING, apis=PROMETHEUS)
    account = rendered.one("ServiceAccount", "test")["metadata"]
    assert rendered.one("Pod")["spec"]["serviceAccountName"] == account["name"]
    assert granted(rendered, {"kind": "ServiceAccount", "name": account["name"], "namespace": NAMESPACE}) == {}


def test_a_given_account_gets_the_rights() -> None:
    rendered = render({"serviceAccount": {"create": False, "name": "given"}})
    assert rendered.of("ServiceAccount", "operator") == []
    assert granted(rendered, ACCOUNT | {"name": "given"}) == {"": IN_A_NAMESPACE | DEFINITIONS | NODES}
    assert rendered.pod["spec"]["serviceAccountName"] == "given"


def test_without_rbac_there_is_none() -> None:
    rendered = render(merged(EVERYTHING, {"rbac": {"create": False}, "watchNamespaces": ["paint"]}), apis=PROMETHEUS)
    assert [item["kind"] for item in rendered.objects if item["apiVersion"].startswith("rbac.")] == []


def test_users_who_may_view_or_edit_a_namespace_may_view_or_edit_its_pipelines() -> None:
    view, edit = _user_roles(render())
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    shown = {
        f"{resource}/{part}"
        for resource in ("diffusionpipelines", "diffusionpipelinerolescalers")
        for part in ("scale", "status")
    }
    assert rights(view["rules"]) == {
        (GROUP, "diffusionpipelines"): WATCHED,
        (GROUP, "diffusionpipelinerolescalers"): WATCHED,
        (GROUP, "modelcaches"): WATCHED,
        (GROUP, "modelcaches/status"): {"get"},
        **{(GROUP, resource): {"get"} for resource in shown},
    }
    changed = {"update", "patch"}
    assert rights(edit["rules"]) == {
        (GROUP, "diffusionpipelines"): WATCHED | changed | {"create", "delete", "deletecollection"},
        (GROUP, "modelcaches"): WATCHED | changed | {"create", "delete", "deletecollection"},
        (GROUP, "modelcaches/status"): {"get"},
        (GROUP, "diffusionpipelinerolescalers"): WATCHED | changed,
        (GROUP, "diffusionpipelines/scale"): {"get"} | changed,
        (GROUP, "diffusionpipelinerolescalers/scale"): {"get"} | changed,
        (GROUP, "diffusionpipelines/status"): {"get"},
        (GROUP, "diffusionpipelinerolescalers/status"): {"get"},
    }


def test_the_roles_of_users_need_not_be_part_of_the_cluster_s_own() -> None:
    for role in _user_roles(render({"rbac": {"aggregate": False}})):
        assert not any("aggregate" in label for label in role["metadata"]["labels"])


def _user_roles(rendered: Rendered) -> list[Object]:
    return sorted(rendered.of("ClusterRole", "users"), key=lambda role: role["metadata"]["name"], reverse=True)
