"""What a user does with kubectl, from the first `apply` to the last `delete`, and what the cluster shows of it."""

from __future__ import annotations

import json

import pytest

from cluster.user import LABEL, ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.examples import EXAMPLES, resource

# The garbage collector looks for new kinds twice a minute: what is owned by one outlives its owner for so long.
COLLECTED_SECONDS = 90


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "digits")


@pytest.fixture
def pipeline(user: User, everywhere: Operator) -> User:
    """examples/digits.yaml, applied and ready."""
    user.apply_example("digits.yaml")
    user.until_ready()
    return user


def uids(pods: list[JSON]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def config_maps(user: User) -> set[str]:
    found = user.api.items(f"{user.core}/configmaps", labelSelector=f"{LABEL}={user.name}")
    return {one["metadata"]["name"] for one in found}


def test_an_applied_pipeline_shows_its_roles_and_that_it_is_ready(pipeline: User) -> None:
    pipeline.until_shown(READY="True", REASON="Ready", ENCODER="1/1", DENOISER="1/1", DECODER="1/1", ROUTER="1/1")
    wide = pipeline.columns("-o", "wide")
    assert wide["ENDPOINT"] == f"http://digits-router-api.{pipeline.namespace}.svc:8000"
    assert {f"digits-{wide['GENERATION']}"} == config_maps(pipeline)
    assert "all roles are ready" in pipeline.kubectl("describe", "dpipe/digits").partition("Events:")[2]


def test_each_example_becomes_ready(cluster: Cluster, namespace: str, everywhere: Operator) -> None:
    # The last of them asks for what these nodes have not, as tests of why pods do not run show.
    files = sorted(file.name for file in EXAMPLES.glob("digits*.yaml"))
    users = {file: User(cluster, namespace, file.removesuffix(".yaml")) for file in files}
    for file, user in users.items():
        user.apply_example(file)
    for user in users.values():
        user.until_ready()
    users["digits-two-denoisers.yaml"].until_shown(DENOISER="2/2")
    assert users["digits-colocated.yaml"].counts() == {"denoiser": 1, "router": 1}


def test_edited_replicas_and_kubectl_scale_change_the_pods(pipeline: User) -> None:
    edited = resource("digits")
    edited["spec"]["roles"]["encoder"]["replicas"] = 2
    pipeline.kubectl("apply", "-f", "-", stdin=json.dumps(edited))
    pipeline.until_counts(encoder=2)
    pipeline.kubectl("scale", "dpipe/digits", "--replicas=3")
    pipeline.until_counts(encoder=2, denoiser=3)
    pipeline.until_shown(ENCODER="2/2", DENOISER="3/3", READY="True")
    told = pipeline.kubectl("describe", "dpipe/digits")
    assert "Scaled" in told
    assert "denoiser: 1 to 3 replicas" in told


def test_a_role_at_zero_is_allowed_and_reported(pipeline: User) -> None:
    pipeline.edit(roles={"encoder": {"replicas": 0}})
    remedy = (
        "encoder at zero replicas, so nothing can be generated but from prompts that were encoded before and are kept"
    )
    pipeline.until_condition("Available", "False", "RoleAtZero", remedy)
    pipeline.until_counts(encoder=0)
    assert pipeline.columns()["REASON"] == "RoleAtZero"
    pipeline.edit(roles={"encoder": {"replicas": 1}})
    pipeline.until_ready()


def test_a_suspended_pipeline_has_no_pods_and_is_there_again_as_it_was(pipeline: User) -> None:
    pipeline.edit(roles={"denoiser": {"replicas": 2}})
    pipeline.until_counts(denoiser=2)
    kept = config_maps(pipeline)
    pipeline.edit(suspend=True)
    pipeline.until_counts(**dict.fromkeys(ROLES, 0))
    pipeline.until_condition("Ready", "False", "Suspended")
    pipeline.cluster.until(lambda: not any(map(pipeline.pods, ROLES)), 30, "there are no pods")
    pipeline.until_condition("Progressing", "False", "Suspended")
    assert config_maps(pipeline) == kept
    assert pipeline.columns()["DENOISER"] == "0/0"
    pipeline.edit(suspend=False)
    pipeline.until_counts(denoiser=2)
    pipeline.until_ready()


def test_a_new_restart_id_replaces_every_pod(pipeline: User) -> None:
    before = {role: uids(pipeline.pods(role)) for role in ROLES}
    revisions = {role: pipeline.status()["roles"][role]["updateRevision"] for role in ROLES}
    generation = pipeline.status()["generationId"]
    pipeline.kubectl("patch", "dpipe/digits", "--type=merge", "-p", '{"spec":{"restart":{"id":"2026-11-25"}}}')
    pipeline.until_ready()
    for role in ROLES:
        assert not before[role] & uids(pipeline.pods(role))
        assert pipeline.status()["roles"][role]["updateRevision"] != revisions[role]
    # Old and new pods mean the same by a tensor, so they work together meanwhile.
    assert pipeline.status()["generationId"] == generation


def test_another_image_is_another_generation_and_the_old_one_is_kept_until_no_pod_needs_it(pipeline: User) -> None:
    (old,) = config_maps(pipeline)
    held = {"replicas": 2, "updateStrategy": {"partition": 1}}
    pipeline.edit(image={"repository": "registry.test/worker", "tag": "2"}, roles={"denoiser": held})
    # One denoiser stays as it was for as long as the user holds it there.
    pipeline.until_condition("Progressing", "False", "Paused", "denoiser: 1 pod")
    pipeline.cluster.until(lambda: len(config_maps(pipeline)) == 2, 30, "the new generation has its ConfigMap")
    assert old in config_maps(pipeline)
    images = {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in pipeline.pods("denoiser")}
    assert images["digits-denoiser-1"] == "registry.test/worker:2" != images["digits-denoiser-0"]

    pipeline.edit(roles={"denoiser": {"updateStrategy": None}})
    pipeline.cluster.until(lambda: old not in config_maps(pipeline), 30, "the old generation's ConfigMap is gone")
    pipeline.until_ready()
    (new,) = config_maps(pipeline)
    assert new == f"digits-{pipeline.status()['generationId']}"
    for role in ("encoder", "denoiser", "decoder"):
        assert {pod["spec"]["containers"][0]["image"] for pod in pipeline.pods(role)} == {"registry.test/worker:2"}


def everything(user: User) -> set[str]:
    """All objects of all kinds that carry the pipeline's label, as kubectl names them."""
    kinds = user.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    return set(user.kubectl("get", ",".join(kinds), "-l", f"{LABEL}={user.name}", "-o", "name").split())


def test_a_deleted_pipeline_leaves_nothing_but_the_claim_with_the_routers_jobs(
    user: User, everywhere: Operator
) -> None:
    claims = {"router": {"storage": {"type": "PersistentVolumeClaim"}}, "networkPolicy": {"mode": "Isolate"}}
    cache = {"source": "Hub", "id": "a/b", "cache": {"type": "PerPod"}}
    roles = {"encoder": {"scaling": {"mode": "External"}}, "denoiser": {"replicas": 2}}
    user.make({"model": cache, "roles": roles, **claims})
    user.until_counts(denoiser=2)
    user.cluster.until(lambda: len(everything(user)) > 20, 30, "all children are there")
    kinds = {name.partition(".")[0].partition("/")[0] for name in everything(user)}
    assert {"persistentvolumeclaim", "networkpolicy", "poddisruptionbudget", "serviceaccount"} <= kinds
    user.kubectl("delete", "dpipe/digits")
    jobs = {"persistentvolumeclaim/data-digits-router-0"}
    user.cluster.until(lambda: everything(user) == jobs, COLLECTED_SECONDS, "nothing else is left")


def test_children_that_were_orphaned_are_adopted_by_the_pipeline_that_is_applied_again(pipeline: User) -> None:
    def owners() -> dict[str, str]:
        found = pipeline.api.items(pipeline.stateful_sets, labelSelector=f"{LABEL}=digits")
        return {
            one["metadata"]["uid"]: owner["uid"]
            for one in found
            for owner in one["metadata"].get("ownerReferences", ())
        }

    before, pods = owners(), {role: uids(pipeline.pods(role)) for role in ROLES}
    pipeline.kubectl("delete", "dpipe/digits", "--cascade=orphan", f"--timeout={COLLECTED_SECONDS}s")
    assert owners() == {}
    pipeline.apply_example("digits.yaml")
    pipeline.until_ready()
    after = owners()
    assert after.keys() == before.keys()
    assert set(after.values()) == {pipeline.live()["metadata"]["uid"]}
    assert {role: uids(pipeline.pods(role)) for role in ROLES} == pods
