"""The operator as the chart's ServiceAccount: whatever it asks for it may, and whatever it may it asks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cluster.chart.release import Release
from cluster.user import DIGITS, User
from testbed.controlplane.access import may
from testbed.controlplane.audit import Entry
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

Right = tuple[str, str, str]
"""API group, resource, verb."""

ALL_FEATURES: JSON = {
    **DIGITS,
    "roles": {
        "encoder": {"replicas": 2},
        "denoiser": {"replicas": 2, "scaling": {"mode": "External"}},
        "decoder": {"replicas": 1},
    },
    "networkPolicy": {"mode": "Isolate"},
    "monitoring": {"podMonitor": True},
}
MODEL_CACHE: JSON = {
    "apiVersion": "diffusion-operator.dev/v1alpha1",
    "kind": "ModelCache",
    "metadata": {"name": "sd3"},
    "spec": {"model": {"id": "maker/sd3"}, "roles": {"encoder": {}, "decoder": {}}},
}
CHILDREN = (
    ("", "configmaps"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("apps", "controllerrevisions"),
    ("apps", "statefulsets"),
    ("monitoring.coreos.com", "podmonitors"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
)
UNSEEN: set[Right] = {
    # The API server wants it of an apply that makes something, and notes the apply alone.
    *((group, resource, "create") for group, resource in CHILDREN),
    # After a conflict, to say whose field or whose object it is; before a vanished child is made anew.
    *((group, resource, "get") for group, resource in CHILDREN),
    ("diffusion-operator.dev", "diffusionpipelinerolescalers", "get"),
    ("diffusion-operator.dev", "diffusionpipelines", "get"),
    ("apps", "daemonsets", "create"),
    ("apps", "daemonsets", "get"),
    # What a pipeline no longer has. Of the first five kinds it always has some, but not always of the same names.
    *((group, resource, "delete") for group, resource in CHILDREN[:5]),
    # The same event again within minutes.
    ("", "events", "patch"),
    # When a size in the resource is larger than that of claims there are.
    ("", "persistentvolumeclaims", "list"),
    ("", "persistentvolumeclaims", "patch"),
    # When pods wait for an RDMA device.
    ("", "nodes", "list"),
    # When somebody deleted the chart's.
    ("coordination.k8s.io", "leases", "create"),
}
"""Rights that the life of a pipeline below need not show, and what they are for."""


@pytest.fixture(params=["cluster", "namespaces"])
def values(request: pytest.FixtureRequest, paint: str) -> dict[str, Any]:
    found: dict[str, Any] = {"leaderElection": {"enabled": True}}
    return found if request.param == "cluster" else found | {"watchNamespaces": [paint]}


def test_a_pipeline_s_whole_life_lacks_no_right_and_leaves_none_unused(
    monitored: Cluster, release: Release, paint: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    mark = monitored.audit.mark()
    release.install(values)
    granted = _granted(release)
    user = User(monitored, paint, "digits")
    flags = [*release.flags(), f"--lease-namespace={release.namespace}"]
    with Operator(release.kubeconfig(), *flags, log=tmp_path / "operator.log"):
        user.make(ALL_FEATURES)
        user.until_counts(encoder=2, denoiser=2)
        user.set_scaler(3)
        user.until_counts(encoder=2, denoiser=3)
        user.edit(commonLabels={"team": "paint"})
        monitored.until(lambda: "team" in user.scaler()["metadata"]["labels"], 30, "the scaler is labelled, too")
        user.kubectl("scale", "statefulset", "digits-encoder", "--replicas=5")
        user.until_counts(encoder=2, denoiser=3)
        user.edit(
            roles={"encoder": {"replicas": 1}, "denoiser": {"replicas": 1, "scaling": {"mode": "Static"}}},
            networkPolicy={"mode": "None"},
            monitoring=None,
        )
        user.until_counts()
        for path in (
            f"policy/v1/namespaces/{paint}/poddisruptionbudgets",
            f"networking.k8s.io/v1/namespaces/{paint}/networkpolicies",
            f"monitoring.coreos.com/v1/namespaces/{paint}/podmonitors",
            f"diffusion-operator.dev/v1alpha1/namespaces/{paint}/diffusionpipelinerolescalers",
        ):
            monitored.until(lambda path=path: not monitored.api.items(f"/apis/{path}"), 30, f"{path} are gone")  # type: ignore[misc]
        user.kubectl("delete", "dpipe", "digits", "--timeout=30s")
        caches = f"/apis/diffusion-operator.dev/v1alpha1/namespaces/{paint}/modelcaches"
        monitored.api.post(caches, MODEL_CACHE)
        daemon_sets = f"/apis/apps/v1/namespaces/{paint}/daemonsets"
        monitored.until(lambda: len(monitored.api.items(daemon_sets)) == 2, 30, "both roles are pulled")
        monitored.api.patch(f"{caches}/sd3", {"spec": {"roles": {"encoder": None}}})
        monitored.until(lambda: len(monitored.api.items(daemon_sets)) == 1, 30, "one role is")
    asked = monitored.audit.entries(mark, user=release.user)
    assert [entry for entry in asked if entry.code == 403] == []
    assert granted - _used(asked) <= UNSEEN


def _used(entries: Iterable[Entry]) -> set[Right]:
    return {(e.group, f"{e.resource}/{e.subresource}".rstrip("/"), e.verb) for e in entries}


def _granted(release: Release) -> set[Right]:
    """By the roles that helm made for the operator itself."""
    return {
        (group, resource, verb)
        for role in release.installed()
        if role["kind"] in ("Role", "ClusterRole")
        if role["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    ("group", "resource", "verb"),
    [
        ("", "secrets", "get"),
        ("", "pods", "create"),
        ("", "nodes", "list"),
        ("apps", "statefulsets", "create"),
        ("coordination.k8s.io", "leases", "update"),
        ("diffusion-operator.dev", "diffusionpipelines", "update"),
    ],
)
def test_beyond_its_namespaces_it_may_nothing(
    bare: Cluster, release: Release, paint: str, group: str, resource: str, verb: str
) -> None:
    release.install({"watchNamespaces": [paint]})
    rule = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
    assert not may(bare, release.user, rule, release.namespace)
    assert not may(bare, release.user, rule)
    assert may(bare, release.user, rule, paint) is (resource == "statefulsets")


def test_who_may_edit_a_namespace_may_make_and_scale_pipelines_there_and_who_may_view_it_may_look(
    bare: Cluster, release: Release, paint: str
) -> None:
    release.install()
    for role in ("edit", "view"):
        bare.kubectl("-n", paint, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}r")
    expected = {
        ("diffusionpipelines", "create"): {"editr"},
        ("diffusionpipelines/scale", "patch"): {"editr"},
        ("diffusionpipelinerolescalers/scale", "update"): {"editr"},
        ("diffusionpipelines", "list"): {"editr", "viewr"},
        ("diffusionpipelinerolescalers", "watch"): {"editr", "viewr"},
        ("diffusionpipelines/status", "patch"): set(),
    }

    def found() -> dict[tuple[str, str], set[str]]:
        return {
            (resource, verb): {user for user in ("editr", "viewr") if may(bare, user, _rule(resource, verb), paint)}
            for resource, verb in expected
        }

    # A controller aggregates the roles.
    bare.until(lambda: found() == expected, 30, f"rights are {expected}")


def _rule(resource: str, verb: str) -> dict[str, Any]:
    return {"apiGroups": ["diffusion-operator.dev"], "resources": [resource], "verbs": [verb]}
