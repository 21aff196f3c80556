"""Each way to say how many pods a role has moves that role's StatefulSet and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.user import ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.metrics_source import MetricsSource
from testbed.controlplane.operators import Operator

MODEL_ROLES = ("encoder", "denoiser", "decoder")
EXTERNAL = {"scaling": {"mode": "External"}}


@pytest.fixture
def user(cluster: Cluster, namespace: str, everywhere: Operator) -> User:
    return User(cluster, namespace, "painter")


@pytest.fixture
def static(user: User) -> User:
    """All replicas are the resource's."""
    user.make()
    user.until_ready()
    return user


@pytest.fixture
def external(user: User) -> User:
    """Every model role has its scaler."""
    user.make(roles=dict.fromkeys(MODEL_ROLES, EXTERNAL))
    user.until_ready()
    user.until_condition("ScalingReady", "True", "ScalersBound")
    return user


def generations(user: User) -> dict[str, int]:
    """How often each StatefulSet's spec was changed."""
    return {role: user.stateful_set(role)["metadata"]["generation"] for role in ROLES}


class Untouched:
    """In its block the StatefulSets of all roles but one are never written."""

    def __init__(self, user: User, role: str) -> None:
        self.user = user
        self.role = role

    def __enter__(self) -> None:
        self.before = generations(self.user)

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            after = generations(self.user)
            assert {role for role in ROLES if after[role] != self.before[role]} == {self.role}


@pytest.mark.parametrize("role", MODEL_ROLES)
def test_an_edit_of_the_resource_moves_its_role(role: str, static: User) -> None:
    with Untouched(static, role):
        static.edit(roles={role: {"replicas": 3}})
        static.until_counts(**{role: 3})
        static.until_ready()
        assert len(static.pods(role)) == 3
        static.edit(roles={role: {"replicas": 1}})
        static.until_counts()


def test_kubectl_scale_moves_the_denoiser(static: User) -> None:
    with Untouched(static, "denoiser"):
        static.kubectl("scale", "dpipe/painter", "--replicas=3", "--current-replicas=1")
        static.until_counts(denoiser=3)
        until_counted(static, static.path, 3)


@pytest.mark.parametrize("role", MODEL_ROLES)
def test_a_scaler_moves_its_role(role: str, external: User) -> None:
    with Untouched(external, role):
        external.kubectl("scale", f"dprs/painter-{role}", "--replicas=3")
        external.until_counts(**{role: 3})
        external.until_shown(**{role.upper(): "3/3", "READY": "True"})
        external.set_scaler(0, role)
        external.until_counts(**{role: 0})
        external.until_condition("Available", "False", "Idle", f"{role} at zero replicas as painter-{role} says")
        external.until_condition("Ready", "True", "Idle")
        external.set_scaler(1, role)
        external.until_counts()


def scale(user: User, path: str) -> JSON:
    return user.api.get(f"{path}/scale")


def until_counted(user: User, path: str, pods: int) -> None:
    """Waits until the scale of an object says that there are so many."""
    user.cluster.until(lambda: scale(user, path)["status"]["replicas"] == pods, 30, f"{pods} are counted")


@pytest.mark.parametrize("role", MODEL_ROLES)
def test_a_scale_selects_exactly_the_pods_that_it_counts(role: str, external: User) -> None:
    external.set_scaler(2, role)
    external.until_counts(**{role: 2})
    paths = [f"{external.scalers}/painter-{role}"] + [external.path] * (role == "denoiser")
    for path in paths:
        until_counted(external, path, 2)
        selector = scale(external, path)["status"]["selector"]
        selected = external.api.items(f"{external.core}/pods", labelSelector=selector)
        assert {pod["metadata"]["name"] for pod in selected} == {f"painter-{role}-0", f"painter-{role}-1"}


class TestAutoscaler:
    @pytest.fixture
    def source(self, cluster: Cluster) -> Iterator[MetricsSource]:
        with MetricsSource(cluster) as source:
            source.set("queued", 10)
            yield source

    def autoscaler(self, user: User, kind: str, name: str) -> str:
        """One pod for ten requests that wait. Returns its path."""
        metric = {"metric": {"name": "queued"}, "target": {"type": "AverageValue", "averageValue": "10"}}
        spec = {
            "scaleTargetRef": {"apiVersion": "diffusion-operator.dev/v1alpha1", "kind": kind, "name": name},
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [{"type": "External", "external": metric}],
        }
        path = f"/apis/autoscaling/v2/namespaces/{user.namespace}/horizontalpodautoscalers"
        user.api.post(path, {"metadata": {"name": "painter"}, "spec": spec})
        return f"{path}/painter"

    def follow(self, user: User, source: MetricsSource, role: str, path: str) -> None:
        """The load rises and falls, and the role with it."""
        with Untouched(user, role):
            source.set("queued", 30)
            user.until_counts(60, **{role: 3})
            user.until_ready()
            source.set("queued", 5)
            user.until_counts(60)
        user.cluster.until(lambda: user.api.get(path)["status"]["currentReplicas"] == 1, 30, "one is counted")
        conditions = {one["type"]: one["status"] for one in user.api.get(path)["status"]["conditions"]}
        assert conditions["AbleToScale"] == conditions["ScalingActive"] == "True"

    @pytest.mark.parametrize("role", MODEL_ROLES)
    def test_it_moves_a_role_by_its_scaler(self, role: str, external: User, source: MetricsSource) -> None:
        path = self.autoscaler(external, "DiffusionPipelineRoleScaler", f"painter-{role}")
        self.follow(external, source, role, path)

    def test_it_moves_the_denoisers_by_the_pipeline_itself(self, static: User, source: MetricsSource) -> None:
        self.follow(static, source, "denoiser", self.autoscaler(static, "DiffusionPipeline", "painter"))

    def test_it_goes_on_from_what_runs_when_a_role_is_handed_over(self, static: User, source: MetricsSource) -> None:
        source.set("queued", 20)
        static.edit(roles={"denoiser": {"replicas": 2}})
        static.until_counts(denoiser=2)
        static.edit(roles={"denoiser": EXTERNAL})
        self.autoscaler(static, "DiffusionPipelineRoleScaler", "painter-denoiser")
        source.set("queued", 40)
        static.until_counts(60, denoiser=4)
