"""Which pods a change replaces, how many at once, and about how long that takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from diffusion_operator.api import Role, load_pipeline, with_defaults
from diffusion_operator.render import templates
from diffusion_operator.render.images import Images
from dpipe.changes.plan import Plan, RolePlan, Side, plan
from dpipe.changes.telling import told

IMAGES = Images(worker="example/worker:1", router="example/router:1")
FLEET = {role: {"replicas": 4} for role in ("encoder", "denoiser", "decoder")}


def side(images: Images = IMAGES, **spec: Any) -> Side:
    resource = {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": "digits"},
        "spec": {"model": {"source": "Bundled"}, "roles": FLEET, **spec},
    }
    pipeline = load_pipeline(resource)
    return Side(pipeline, with_defaults(resource)["spec"], templates(pipeline, images))


def denoiser(**more: Any) -> dict[str, Any]:
    return {**FLEET, "denoiser": {"replicas": 4, **more}}


def role(found: Plan, name: str) -> RolePlan:
    return next(one for one in found.roles if one.workload == f"digits-{name}")


def test_nothing_changes() -> None:
    found = plan(side(), side())
    assert found.is_empty
    assert list(told([found])) == ["default/digits", "  nothing changes"]


def test_another_image_replaces_all_workers_one_by_one_and_says_why() -> None:
    found = plan(side(), side(image={"tag": "2"}), {Role.ENCODER: 40.0})
    assert found.edits == ("spec.image",)
    assert [(one.workload, one.replaced, one.at_once) for one in found.roles] == [
        ("digits-encoder", 4, 1),
        ("digits-denoiser", 4, 1),
        ("digits-decoder", 4, 1),
    ]
    assert "spec.containers[main].image" in role(found, "encoder").why
    assert role(found, "encoder").seconds == 160
    assert role(found, "denoiser").seconds is None
    text = list(told([found]))
    assert (
        "  digits-encoder: 4 of 4 pods replaced, 1 at once; about 2 min 40 s (4 x 40 s), as such pods took until now"
        in text
    )
    assert not found.warnings


@pytest.mark.parametrize(
    ("limit", "at_once", "batches"), [(2, 2, 2), (3, 3, 2), (9, 4, 1), ("50%", 2, 2), ("30%", 1, 4), ("1%", 1, 4)]
)
def test_as_many_at_once_as_may_be_away(limit: int | str, at_once: int, batches: int) -> None:
    patient = {"updateStrategy": {"maxUnavailable": limit}, "minReadySeconds": 5}
    before, after = side(roles=denoiser(**patient)), side(roles=denoiser(**patient, threads=2))
    found = role(plan(before, after, {Role.DENOISER: 10.0}), "denoiser")
    assert (found.replaced, found.at_once, found.batches) == (4, at_once, batches)
    assert found.seconds == batches * 15


@pytest.mark.parametrize(
    ("strategy", "replaced", "held"),
    [({"partition": 1}, 3, 1), ({"partition": 4}, 0, 4), ({"partition": 9}, 0, 4), ({"type": "OnDelete"}, 0, 4)],
)
def test_what_is_held_back_is_not_replaced(strategy: dict[str, Any], replaced: int, held: int) -> None:
    before = side(roles=denoiser(updateStrategy=strategy))
    found = role(plan(before, side(roles=denoiser(updateStrategy=strategy, threads=2))), "denoiser")
    assert (found.replaced, found.held) == (replaced, held)


@pytest.mark.parametrize(("count", "replaced"), [(1, 1), (4, 4), (6, 4), (0, 0)])
def test_pods_that_come_or_go_are_no_replaced_ones(count: int, replaced: int) -> None:
    after = {**FLEET, "denoiser": {"replicas": count, "threads": 2}}
    if not count:
        after = {name: {**spec, "replicas": 0} for name, spec in after.items()}
    found = role(plan(side(), side(roles=after)), "denoiser")
    assert (found.before, found.after, found.replaced) == (4, count, replaced)


def test_more_pods_alone_replace_none() -> None:
    found = plan(side(), side(roles=denoiser() | {"decoder": {"replicas": 5}}))
    assert [(one.workload, one.before, one.after, one.replaced) for one in found.roles] == [("digits-decoder", 4, 5, 0)]


def test_a_generation_that_comes_up_beside_the_other_is_told_with_all_that_it_takes() -> None:
    surge = {"update": {"surge": {"stepPercent": 30, "pauseSeconds": 20}}}
    after = dataclasses.replace(side(image={"tag": "2"}, **surge), beside=True)
    found = plan(side(**surge), after, {Role.ENCODER: 40.0})
    assert (role(found, "encoder").replaced, role(found, "encoder").seconds) == (4, 40)
    assert "meanwhile there are 12 pods more: they take over in 4 steps of 20 s once all are ready" in found.warnings[0]
    assert "  digits-encoder: 4 of 4 pods replaced, beside those that run; about 40 s" in "\n".join(told([found]))


def test_a_pipeline_that_comes_and_one_that_goes() -> None:
    made, gone = plan(None, side()), plan(side(), None)
    assert {(one.before, one.after) for one in made.roles} == {(0, 4), (0, 1)}
    assert {(one.before, one.after) for one in gone.roles} == {(4, 0), (1, 0)}
    assert not made.warnings
    assert "spec.router.storage.type is EmptyDir" in gone.warnings[0]


def test_a_role_that_moves_into_the_denoisers_pods() -> None:
    found = plan(side(), side(roles={**FLEET, "encoder": {"colocateWith": "denoiser"}}))
    assert (role(found, "encoder").before, role(found, "encoder").after) == (4, 0)
    assert role(found, "denoiser").replaced == 4


def test_jobs_that_a_routers_pod_takes_with_it_are_warned_of() -> None:
    edit = {"router": {"maxQueuedRequests": 7}}
    assert "spec.router.storage.type is EmptyDir" in plan(side(), side(**edit)).warnings[0]
    kept = {"storage": {"type": "PersistentVolumeClaim"}}
    found = plan(side(router=kept), side(router={**kept, "maxQueuedRequests": 7}))
    assert role(found, "router").replaced == 1
    assert not found.warnings


def test_children_that_change_without_any_pod_are_told() -> None:
    found = plan(side(), side(router={"service": {"type": "NodePort"}}))
    assert found.others == ("Service digits-router-api: spec.type, spec.ports[grpc]",)
    assert not found.roles


def test_what_can_not_be_changed_is_told() -> None:
    kept = {"type": "PersistentVolumeClaim", "size": "2Gi"}
    found = plan(side(router={"storage": kept}), side(router={"storage": {**kept, "size": "1Gi"}}))
    assert found.refused == ("StatefulSet digits-router: spec.volumeClaimTemplates",)
    assert not found.others


def test_claims_that_grow_are_told_and_replace_no_pod() -> None:
    kept = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    found = plan(side(router={"storage": kept}), side(router={"storage": {**kept, "size": "2Gi"}}))
    assert found.others == (
        "claims of StatefulSet digits-router grow from 1Gi to 2Gi, if their storage class allows it",
    )
    assert not found.refused
    assert not found.roles
    assert plan(side(router={"storage": kept}), side(router={"storage": {**kept, "size": "1024Mi"}})).is_empty
