"""A role's scaler: who makes it, at which number, and that the number has one writer who is never the operator."""

from __future__ import annotations

import pytest

from cluster.user import API_VERSION, ROLES, User
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.controlplane.operators import Operator

EXTERNAL = {"scaling": {"mode": "External"}}
STATIC = {"scaling": {"mode": "Static"}}


@pytest.fixture
def user(cluster: Cluster, namespace: str, everywhere: Operator) -> User:
    return User(cluster, namespace, "painter")


def make(user: User, replicas: int, **denoiser: object) -> None:
    user.make(roles={"denoiser": {"replicas": replicas, **denoiser}})
    user.until_counts(denoiser=replicas)


def until_scaler(user: User, replicas: int) -> JSON:
    """Waits until it is there; its number must be the right one from the beginning."""
    user.cluster.until(user.scaler, 30, "the scaler is there")
    found = user.scaler()
    assert found["spec"]["replicas"] == replicas
    return found


def gone(user: User) -> bool:
    return not user.api.items(user.scalers)


def test_a_role_that_is_handed_over_keeps_its_pods(user: User) -> None:
    make(user, 3)
    generation = user.stateful_set("denoiser")["metadata"]["generation"]
    # One edit that says both: the number is for the day when the role is Static again.
    user.edit(roles={"denoiser": {"replicas": 1, **EXTERNAL}})
    scaler = until_scaler(user, 3)
    assert scaler["metadata"]["ownerReferences"][0]["uid"] == user.live()["metadata"]["uid"]
    user.until_condition("ScalingReady", "True", "ScalersBound", "denoiser follows painter-denoiser")
    assert user.stateful_set("denoiser")["metadata"]["generation"] == generation


def test_a_role_without_pods_is_handed_over_at_one_as_autoscalers_take_zero_for_off(user: User) -> None:
    make(user, 0)
    user.edit(roles={"denoiser": EXTERNAL})
    until_scaler(user, 1)
    user.until_counts(denoiser=1)


def test_a_new_pipelines_scaler_begins_with_what_the_resource_says(user: User) -> None:
    make(user, 2, **EXTERNAL)
    until_scaler(user, 2)


def test_a_scaler_that_was_deleted_comes_back_at_the_number_that_runs(user: User) -> None:
    make(user, 1, **EXTERNAL)
    user.set_scaler(4)
    user.until_counts(denoiser=4)
    before = user.scaler()["metadata"]["uid"]
    generation = user.stateful_set("denoiser")["metadata"]["generation"]
    user.kubectl("delete", "dprs/painter-denoiser")
    scaler = until_scaler(user, 4)
    assert scaler["metadata"]["uid"] != before
    user.cluster.until(lambda: user.scaler().get("status", {}).get("replicas") == 4, 30, "it counts the pods")
    assert user.stateful_set("denoiser")["metadata"]["generation"] == generation


def test_a_role_that_is_taken_back_has_the_resources_number_and_no_scaler(user: User) -> None:
    make(user, 2, **EXTERNAL)
    user.set_scaler(5)
    user.until_counts(denoiser=5)
    with pytest.raises(Refused, match="scale the role by its scaler instead"):
        user.edit(roles={"denoiser": {"replicas": 3}})
    user.edit(roles={"denoiser": {"replicas": 3, **STATIC}})
    user.until_counts(denoiser=3)
    user.cluster.until(lambda: gone(user), 30, "the scaler is gone")
    user.until_condition("ScalingReady", "True", "NoScalers")


def test_what_a_scaler_says_of_a_suspended_pipeline_holds_when_it_is_resumed(user: User) -> None:
    make(user, 2, **EXTERNAL)
    user.edit(suspend=True)
    user.until_counts(**dict.fromkeys(ROLES, 0))
    assert until_scaler(user, 2)["metadata"]["name"] == "painter-denoiser"
    user.cluster.until(lambda: bound(user) == ("False", "Suspended"), 30, "the scaler says why it is not followed")
    user.set_scaler(3)
    user.edit(suspend=False)
    user.until_counts(denoiser=3)
    user.cluster.until(lambda: bound(user) == ("True", "Followed"), 30, "the scaler is followed")


def test_a_role_that_is_handed_over_while_there_are_no_pods_begins_with_what_the_resource_says(user: User) -> None:
    make(user, 4)
    user.edit(suspend=True)
    user.until_counts(**dict.fromkeys(ROLES, 0))
    user.edit(suspend=False, roles={"denoiser": EXTERNAL})
    until_scaler(user, 4)
    user.until_counts(denoiser=4)


def bound(user: User) -> tuple[str, str]:
    (condition,) = user.scaler()["status"]["conditions"]
    return condition["status"], condition["reason"]


def test_kubectl_shows_what_a_scaler_wants_and_what_there_is(user: User) -> None:
    make(user, 2, **EXTERNAL)
    user.cluster.until(lambda: user.scaler().get("status", {}).get("replicas") == 2, 30, "2 are counted")
    headings, row = user.kubectl("get", "dprs").splitlines()
    assert headings.split() == ["NAME", "PIPELINE", "ROLE", "DESIRED", "CURRENT", "BOUND", "AGE"]
    assert row.split()[:6] == ["painter-denoiser", "painter", "denoiser", "2", "2", "True"]


def test_somebody_elses_object_of_a_scalers_name_is_neither_adopted_nor_followed(user: User) -> None:
    theirs = {
        "apiVersion": API_VERSION,
        "kind": "DiffusionPipelineRoleScaler",
        "metadata": {"name": "painter-denoiser"},
        "spec": {"replicas": 7, "role": "denoiser", "pipelineRef": {"name": "painter"}},
    }
    made = user.api.post(user.scalers, theirs)
    make(user, 2, **EXTERNAL)
    words = "DiffusionPipelineRoleScaler painter-denoiser exists and does not belong to this pipeline"
    user.until_condition("ScalingReady", "False", "NameConflict", words)
    assert user.scaler()["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert user.counts()["denoiser"] == 2
    # Ready all the same: it serves.
    user.until_ready()

    user.kubectl("delete", "dprs/painter-denoiser")
    until_scaler(user, 2)
    user.until_condition("ScalingReady", "True", "ScalersBound")


def test_a_colocated_role_follows_the_denoisers_scaler(user: User) -> None:
    together = {"colocateWith": "denoiser"}
    user.make(roles={"encoder": together, "decoder": together, "denoiser": {"replicas": 2, **EXTERNAL}})
    user.cluster.until(lambda: user.counts() == {"denoiser": 2, "router": 1}, 30, "two pods have all roles")
    user.set_scaler(3)
    user.cluster.until(lambda: user.counts() == {"denoiser": 3, "router": 1}, 30, "three pods have all roles")
    user.until_shown(ENCODER="3/3", DENOISER="3/3", DECODER="3/3", READY="True")
    with pytest.raises(ClusterError, match="not found"):
        user.kubectl("get", "dprs/painter-encoder")


def test_the_operator_creates_and_deletes_scalers_and_writes_their_status_and_nothing_else(
    cluster: Cluster, user: User
) -> None:
    mark = cluster.audit.mark()
    make(user, 2, **EXTERNAL)
    user.set_scaler(3)
    user.until_counts(denoiser=3)
    user.kubectl("delete", "dprs/painter-denoiser")
    until_scaler(user, 3)
    user.edit(roles={"denoiser": STATIC})
    cluster.until(lambda: gone(user), 30, "the scaler is gone")

    def operators_writes() -> set[tuple[str, str]]:
        written = cluster.audit.writes(mark, resource="diffusionpipelinerolescalers", namespace=user.namespace)
        return {(entry.verb, entry.subresource) for entry in written if entry.user.startswith("operator:")}

    # A long answer may be sent before it is in the log.
    cluster.until(lambda: ("delete", "") in operators_writes(), 30, "the last write is in the log")
    assert operators_writes() == {("create", ""), ("patch", "status"), ("delete", "")}
