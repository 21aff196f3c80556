"""Another operator replaces no pod by itself, and an edit does what it does with the operator before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from diffusion_operator.api import MODEL_ROLES, Platform, Role, from_live, load_platform
from diffusion_operator.api.platform import NOTHING
from diffusion_operator.render import Images, Templates, render, templates
from diffusion_operator.update.decide import Decision, decide
from diffusion_operator.update.revision import Revision, digest, from_object, latest, to_object
from testbed.examples import EXAMPLES as FOLDER
from unit.update.earlier import NEW, OLD, Resource, live, made_then, written_then

EXAMPLES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def decided(
    found: Resource,
    written: Revision | None,
    images: Images = NEW,
    *,
    settled: bool = False,
    moves: bool = False,
    platform: Platform = NOTHING,
) -> Decision:
    pipeline = platform.beneath(from_live(found))
    return decide(found, pipeline, images, written, settled=settled, moves=moves, platform=platform)


def main(made: Templates, role: Role) -> Mapping[str, Any]:
    container: Mapping[str, Any] = made.pods[role]["spec"]["containers"][0]
    return container


def env(made: Templates, role: Role) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in main(made, role)["env"]}


def test_a_new_pipeline_is_made_by_this_operator() -> None:
    found = decided(live(), None)
    assert found.revision == Revision(1, live()["spec"], NEW, templates(from_live(live()), NEW))
    assert not found.available


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_this_operator_would_make_too_is_left_alone(name: str) -> None:
    written = decided(live(name), None).revision
    assert decided(live(name), written) == Decision(written)
    assert decided(live(name), written, moves=True) == Decision(written)


def test_an_edit_under_the_same_operator_is_made_by_it() -> None:
    written = decided(live(), None).revision
    edited = live(image={"tag": "7"})
    found = decided(edited, written)
    assert found.revision == Revision(2, edited["spec"], NEW, templates(from_live(edited), NEW))
    assert not found.available


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
def test_another_operator_moves_nothing(name: str, settled: bool) -> None:
    written = written_then(live(name))
    found = decided(live(name), written, settled=settled)
    assert found.revision is written
    assert found.available == digest(templates(from_live(live(name)), NEW))
    assert any(change.startswith("spec.containers[main].image (") for change in found.changes)
    assert any(change.startswith("spec.containers[main].env[POD_UID] (") for change in found.changes)
    assert any(change.startswith("spec.containers[main].env[OLD] (") for change in found.changes)
    pods = render(from_live(live(name)), NEW, pods=found.revision.made)
    for child in pods:
        if child["kind"] == "StatefulSet":
            role = Role(child["metadata"]["labels"]["diffusion-operator.dev/role"])
            assert child["spec"]["template"] == written.templates.pods[role]


def test_other_images_alone_move_nothing() -> None:
    """The same operator with another flag."""
    written = decided(live(), None, OLD).revision
    found = decided(live(), written, NEW)
    assert found.revision is written
    assert found.changes == ("spec.containers[main].image (encoder, denoiser, decoder, router)",)


def test_what_may_move_is_made_by_this_operator_once() -> None:
    found = decided(live(), written_then(live()), moves=True)
    assert found.revision == Revision(4, live()["spec"], NEW, templates(from_live(live()), NEW), moved=True)
    assert not found.available
    again = decided(live(), found.revision, moves=True)
    assert again.revision is found.revision


def test_replicas_move_nothing_and_are_written_down_with_the_same_pods() -> None:
    edited = live()
    edited["spec"]["roles"]["denoiser"]["replicas"] = 5
    written = written_then(live())
    found = decided(edited, written)
    assert found.revision.templates == written.templates
    assert found.revision.spec == edited["spec"]
    assert decided(edited, found.revision).revision is found.revision


def test_an_edit_of_one_role_replaces_that_roles_pods_alone_and_brings_nothing_of_this_operator() -> None:
    written = written_then(live())
    edited = live()
    edited["spec"]["roles"]["denoiser"]["threads"] = 3
    found = decided(edited, written)
    held = found.revision.templates
    for role in (Role.ROUTER, Role.ENCODER, Role.DECODER):
        assert held.pods[role] == written.templates.pods[role]
    assert env(held, Role.DENOISER)["OMP_NUM_THREADS"] == "3"
    assert env(held, Role.DENOISER)["OLD"] == "1"
    assert "POD_UID" not in env(held, Role.DENOISER)
    assert main(held, Role.DENOISER)["image"] == OLD.worker
    assert held.generation == written.templates.generation
    assert found.available == digest(templates(from_live(edited), NEW))


def test_an_edit_that_makes_another_generation_makes_one_of_its_own() -> None:
    """Neither the one before, whose workers would take part, nor the one that a move would make."""
    written = written_then(live())
    edited = live(model={"dtype": "bfloat16"})
    held = decided(edited, written).revision.templates
    made = templates(from_live(edited), NEW)
    assert held.generation not in (written.templates.generation, made.generation)
    assert held.variables["DIFFUSION_WORKER_MODEL_DTYPE"] == "bfloat16"
    assert held.variables["DIFFUSION_WORKER_GENERATION"] == held.generation
    for role in MODEL_ROLES:
        pod = held.pods[role]
        assert pod["metadata"]["labels"]["diffusion-operator.dev/generation"] == held.generation
        assert held.generation in main(held, role)["envFrom"][0]["configMapRef"]["name"]
        assert main(held, role)["image"] == OLD.worker
    assert held.pods[Role.ROUTER] == written.templates.pods[Role.ROUTER]


def test_a_tag_of_the_users_is_one_of_the_repository_that_the_pods_have() -> None:
    other = Images(worker="mirror/worker:2", router="mirror/router:2")
    written = written_then(live())
    held = decided(live(image={"tag": "1.1"}), written, other).revision.templates
    assert main(held, Role.ENCODER)["image"] == "example/worker:1.1"


def test_what_was_edited_without_effect_before_has_none_afterwards() -> None:
    """That the earlier operator made nothing of a field is no reason to restart pods when this one would."""
    edited = live()
    edited["spec"]["roles"]["denoiser"]["threads"] = 3
    written = written_then(live())
    found = decided(edited, written, settled=True)
    assert found.revision.templates == written.templates
    assert found.revision.spec == edited["spec"]


def test_an_edit_of_what_can_no_longer_be_read_is_made_by_this_operator() -> None:
    broken = written_then(live())
    unreadable = Revision(3, {"roles": None}, broken.images, broken.templates)
    assert decided(live(), unreadable).revision.templates == templates(from_live(live()), NEW)
    assert decided(live(), unreadable, settled=True).revision.templates == broken.templates


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_down_is_read_again(name: str) -> None:
    revision = written_then(live(name))
    item = to_object(from_live(live(name)), revision)
    assert from_object(item) == revision
    older = {**item, "revision": 2}
    assert latest([item, older]) == revision


def test_what_cannot_be_read_is_passed_over() -> None:
    revision = decided(live(), None).revision
    item = to_object(from_live(live()), revision)
    strange = [{**item, "revision": 9, "data": data} for data in ({}, {"templates": 1}, {**item["data"], "spec": 1})]
    assert latest([*strange, item]) == revision
    assert latest(strange) is None


def test_made_then_is_another() -> None:
    assert made_then(live()) != templates(from_live(live()), OLD)


PLATFORM = load_platform(
    {"imagePullSecrets": [{"name": "mirror"}], "workers": {"env": [{"name": "PROXY", "value": "a"}]}, "egress": [{}]}
)


class TestAnotherPlatform:
    def test_its_defaults_wait_as_another_operators_do(self) -> None:
        written = decided(live(), None).revision
        found = decided(live(), written, platform=PLATFORM)
        assert found.revision == written
        assert set(found.changes) == {
            "spec.imagePullSecrets (encoder, denoiser, decoder, router)",
            "spec.containers[main].env[PROXY] (encoder, denoiser, decoder)",
        }
        moved = decided(live(), written, platform=PLATFORM, moves=True).revision
        assert env(moved.templates, Role.DECODER)["PROXY"] == "a"
        assert decided(live(), moved, platform=PLATFORM) == Decision(moved)

    def test_an_edit_brings_nothing_of_them_along(self) -> None:
        written = decided(live(), None).revision
        edited = live(roles={"decoder": {"env": [{"name": "MINE", "value": "1"}]}})
        found = decided(edited, written, platform=PLATFORM)
        assert env(found.revision.templates, Role.DECODER)["MINE"] == "1"
        assert "PROXY" not in env(found.revision.templates, Role.DECODER)
        assert "imagePullSecrets" not in found.revision.templates.pods[Role.DECODER]["spec"]
        assert found.available

    def test_an_edit_under_the_same_platform_is_only_an_edit(self) -> None:
        written = decided(live(), None, platform=PLATFORM).revision
        edited = live(roles={"decoder": {"env": [{"name": "PROXY", "value": "mine"}]}})
        found = decided(edited, written, platform=PLATFORM)
        assert env(found.revision.templates, Role.DECODER)["PROXY"] == "mine"
        assert env(found.revision.templates, Role.ENCODER)["PROXY"] == "a"
        assert not found.available

    def test_a_new_pipeline_has_them_at_once(self) -> None:
        assert env(decided(live(), None, platform=PLATFORM).revision.templates, Role.DECODER)["PROXY"] == "a"

    def test_taken_away_they_stay_until_the_pipeline_moves(self) -> None:
        written = decided(live(), None, platform=PLATFORM).revision
        assert decided(live(), written).revision == written
        assert decided(live(), written).available
