"""With `spec.update.surge` another generation comes up beside the one that serves, and takes over or goes again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diffusion_operator.api import MODEL_ROLES, Role, Surge, from_live
from diffusion_operator.render import Images, Templates, render
from diffusion_operator.update import surge
from diffusion_operator.update.decide import Decision, decide
from diffusion_operator.update.revision import Refused, Revision, digest, from_object, to_object
from diffusion_operator.update.surge import Progress, Seen, Step, Tally
from unit.update.earlier import NEW, OLD, Resource, live

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
SURGE = {"surge": {"stepPercent": 40, "pauseSeconds": 60}}
THREE_DECODERS = {"decoder": {**live()["spec"]["roles"]["decoder"], "replicas": 3}}
KNOBS = Surge(step_percent=40, pause_seconds=60, max_failed_percent=5, max_slower_percent=50)


def decided(found: Resource, written: Revision | None, images: Images = NEW, **more: Any) -> Decision:
    given = {"settled": False, "moves": False, **more}
    return decide(found, from_live(found), images, written, **given)


def first(**spec: Any) -> Revision:
    return decided(live(update=SURGE, **spec), None).revision


def edited(**spec: Any) -> Resource:
    return live(update=SURGE, **spec)


def surging() -> Revision:
    return decided(edited(image={"tag": "7"}), first()).revision


def image(made: Templates) -> str:
    found: str = made.pods[Role.DENOISER]["spec"]["containers"][0]["image"]
    return found


def test_another_generation_is_a_candidate_and_what_serves_stays_as_it_is() -> None:
    found = surging()
    assert (found.number, found.track, found.surged) == (2, "", False)
    assert found.templates == first().templates
    assert found.candidate is not None
    assert image(found.candidate).endswith(":7")


def test_what_leaves_the_generation_as_it_is_takes_the_places_of_pods() -> None:
    found = decided(edited(roles={"decoder": {"threads": 2}}), first()).revision
    assert found.candidate is None
    assert found.templates != first().templates


def test_without_surge_so_does_another_generation() -> None:
    found = decided(live(image={"tag": "7"}), decided(live(), None).revision).revision
    assert found.candidate is None


def test_a_role_that_moves_in_with_another_takes_the_places_of_pods() -> None:
    roles = {"encoder": {"colocateWith": "denoiser"}, "denoiser": {}, "decoder": {}, "router": {}}
    found = decided(edited(image={"tag": "7"}, roles=roles), first()).revision
    assert found.candidate is None


def test_a_suspended_pipeline_has_no_need_of_it() -> None:
    assert decided(edited(image={"tag": "7"}, suspend=True), first()).revision.candidate is None


def test_nothing_more_is_decided_while_nothing_is_edited() -> None:
    written = surging()
    assert decided(edited(image={"tag": "7"}), written, settled=True) == Decision(written)


def test_replicas_are_edited_meanwhile() -> None:
    found = decided(edited(image={"tag": "7"}, roles=THREE_DECODERS), surging()).revision
    assert (found.templates, found.candidate) == (surging().templates, surging().candidate)


def test_another_edit_meanwhile_is_another_candidate() -> None:
    found = decided(edited(image={"tag": "8"}), surging()).revision
    assert found.templates == first().templates
    assert found.candidate is not None
    assert image(found.candidate).endswith(":8")


def test_an_edit_that_is_taken_back_has_no_candidate() -> None:
    found = decided(edited(), surging()).revision
    assert (found.templates, found.candidate, found.surged) == (first().templates, None, True)
    assert surge.shares(found) == {found.templates.generation: 100}


def test_an_operators_upgrade_comes_as_a_candidate_too_and_only_when_told() -> None:
    written = decided(edited(), None, OLD).revision
    assert decided(edited(), written, settled=True).revision.candidate is None
    found = decided(edited(), written, settled=True, moves=True).revision
    assert found.candidate is not None
    assert (image(found.templates), image(found.candidate)) == ("example/worker:1", "example/worker:2")
    assert found.moved


def test_what_has_taken_over_is_in_the_other_track_and_nothing_follows_from_it() -> None:
    written = surge.promoted(surging())
    assert (written.templates, written.track, written.candidate) == (surging().candidate, "b", None)
    assert decided(edited(image={"tag": "7"}), written, settled=True) == Decision(written)
    following = decided(edited(image={"tag": "8"}), written).revision
    assert (following.templates, following.track) == (written.templates, "b")
    back_again = surge.promoted(following)
    assert back_again.track == ""


def test_what_it_went_back_from_is_not_tried_again_until_that_is_asked_for() -> None:
    written = surge.gone_back(surging(), "all failed")
    candidate = surging().candidate
    assert candidate is not None
    assert written.refused == Refused(digest(candidate), "all failed")
    found = decided(edited(image={"tag": "7"}), written, settled=True)
    assert (found.revision, found.available) == (written, digest(candidate))
    scaled = decided(edited(image={"tag": "7"}, roles=THREE_DECODERS), written)
    assert (scaled.revision.templates, scaled.revision.candidate) == (first().templates, None)
    assert scaled.revision.refused == written.refused
    again = decided(edited(image={"tag": "7"}), written, settled=True, moves=True).revision
    assert (again.candidate, again.refused) == (candidate, None)


def test_an_edit_after_it_went_back_is_made_of_what_serves() -> None:
    written = surge.gone_back(surging(), "all failed")
    found = decided(edited(image={"tag": "8"}), written).revision
    assert found.refused is None
    assert found.candidate is not None
    assert image(found.candidate).endswith(":8")
    assert decided(edited(), written).revision.templates == first().templates


def test_a_revision_is_read_as_it_was_written() -> None:
    pipeline = from_live(edited())
    for revision in (surging(), surge.promoted(surging()), surge.gone_back(surging(), "all failed")):
        assert from_object(to_object(pipeline, revision)) == revision


# ---------------------------------------------------------------- going back by a word


def test_it_goes_back_to_a_revision_that_is_kept_and_stays_there() -> None:
    old = decided(live(), None, OLD).revision
    new = decided(live(), old, settled=True, moves=True).revision
    told = live(update={"to": old.digest, "policy": "Rolling"})
    found = decided(told, new, kept=[new, old])
    assert found.revision.templates == old.templates
    assert found.revision.refused is not None
    assert found.revision.refused.digest == found.available == new.digest
    assert decided(told, found.revision, settled=True, kept=[found.revision, new, old]).revision == found.revision


def test_it_does_not_go_back_to_a_revision_of_another_spec() -> None:
    old = decided(live(), None).revision
    new = decided(live(image={"tag": "7"}), old).revision
    found = decided(live(image={"tag": "7"}, update={"to": old.digest}), new, kept=[new, old])
    assert found.revision.templates == new.templates


def test_it_goes_back_step_by_step_too() -> None:
    old = first()
    new = surge.promoted(surging())
    found = decided(live(update={**SURGE, "to": old.digest}), new, kept=[new, old]).revision
    assert (found.templates, found.candidate, found.track) == (new.templates, old.templates, "b")


# ---------------------------------------------------------------- what is rendered


def children(revision: Revision, **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    found = render(from_live(edited(image={"tag": "7"}, **spec)), pods=revision.made)
    return {(child["kind"], child["metadata"]["name"]): child for child in found}


def test_both_tracks_have_their_own_pods_and_everything_else_in_common() -> None:
    alone, both, after = (children(each) for each in (first(), surging(), surge.promoted(surging())))
    new = {("StatefulSet", f"digits-{role}-b") for role in MODEL_ROLES}
    candidate = surging().candidate
    assert candidate is not None
    assert both.keys() - alone.keys() == {*new, ("ConfigMap", f"digits-{candidate.generation}")}
    assert {key: child for key, child in both.items() if key in alone} == alone
    assert after.keys() == both.keys() - {("StatefulSet", f"digits-{role}") for role in MODEL_ROLES} - {
        ("ConfigMap", f"digits-{first().templates.generation}")
    }
    for key in new:
        spec = both[key]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert spec["selector"]["matchLabels"]["diffusion-operator.dev/track"] == "b"
        assert f"{spec['serviceName']}-b" == key[1]
        # No pod is replaced as it takes over.
        assert after[key] == both[key]


def test_no_name_is_too_long_for_a_statefulsets_revisions() -> None:
    resource = live(update=SURGE)
    resource["metadata"]["name"] = "p" * 40
    written = decided(resource, None).revision
    both = replace(written, candidate=written.templates)
    for child in render(from_live(resource), pods=both.made):
        if child["kind"] == "StatefulSet":
            assert len(child["metadata"]["name"]) <= 52


# ---------------------------------------------------------------- step by step


def seen(revision: Revision, percent: int | None, *, ready: bool = True, **tallies: Tally) -> Seen:
    assert revision.candidate is not None
    old, new = revision.templates.generation, revision.candidate.generation
    named = {"old": old, "new": new}
    return Seen(
        ready=ready,
        cause="" if ready else "decoder 0 of 1",
        shares=None if percent is None else {old: 100 - percent, new: percent},
        tallies={named[name]: tally for name, tally in tallies.items()},
    )


def step(before: Progress | None, what: Seen, seconds: float = 0) -> Step:
    return surge.step(KNOBS, surging(), before, what, startup_seconds=300, now=NOW + timedelta(seconds=seconds))


def at(percent: int, since: float = 0) -> Progress:
    candidate = surging().candidate
    assert candidate is not None
    return Progress(digest(candidate), candidate.generation, percent, NOW + timedelta(seconds=since))


def test_it_takes_over_step_by_step() -> None:
    found = step(None, seen(surging(), None, ready=False))
    assert (found.progress, found.why, found.again) == (at(0), "decoder 0 of 1", 300)
    assert surge.shares(surging(), found.progress) == {
        surging().templates.generation: 100,
        found.progress.generation: 0,
    }
    found = step(found.progress, seen(surging(), 0), 40)
    assert found.progress == at(40, 40)
    found = step(found.progress, seen(surging(), 40), 70)
    assert (found.progress, found.again) == (at(40, 40), 30)
    found = step(found.progress, seen(surging(), 40), 100)
    assert found.progress == at(80, 100)
    found = step(found.progress, seen(surging(), 80), 160)
    assert found.progress == at(100, 160)
    assert step(found.progress, seen(surging(), 100), 219).verdict == "go on"
    assert step(found.progress, seen(surging(), 100), 220).verdict == "promote"


def test_a_step_that_the_router_has_not_taken_does_not_pass() -> None:
    for shares in (None, 0):
        found = step(at(40), seen(surging(), shares), 1000)
        assert (found.verdict, found.progress) == ("go on", at(40))
        assert "has not taken the shares" in found.why


def test_progress_of_another_candidate_is_none_of_its_own() -> None:
    found = step(replace(at(80), digest="another"), seen(surging(), 80, ready=False))
    assert found.progress == at(0)


@pytest.mark.parametrize(("percent", "allowed"), [(0, 300), (40, 360)])
def test_pods_that_do_not_come_up_or_go_have_so_much_time(percent: int, allowed: int) -> None:
    assert step(at(percent), seen(surging(), percent, ready=False), allowed).verdict == "go on"
    found = step(at(percent), seen(surging(), percent, ready=False), allowed + 1)
    assert (found.verdict, found.why) == ("go back", f"not ready after {allowed} s: decoder 0 of 1")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (Tally(100, 0), Tally(0, 3), "3 of 3 tasks failed, of the other generation 0 %"),
        (Tally(100, 0), Tally(18, 2), "2 of 20 tasks failed"),
        (Tally(100, 0), Tally(9, 0, 31.0, 20.0), ""),
        (Tally(100, 0), Tally(10, 0, 31.0, 20.0), "its tasks took 55 % longer"),
        (Tally(100, 0), Tally(10, 0, 29.0, 20.0), ""),
        (Tally(100, 0), Tally(10, 0, 0.0, 0.0), ""),
        (Tally(100, 0), Tally(3, 2), ""),
        (Tally(100, 0), Tally(97, 3), ""),
        (Tally(50, 50), Tally(10, 10), ""),
        (Tally(50, 50), Tally(4, 6), "6 of 10 tasks failed, of the other generation 50 %"),
        (Tally(), Tally(0, 3), "3 of 3 tasks failed"),
    ],
)
def test_it_goes_back_when_more_fail_or_take_longer(old: Tally, new: Tally, words: str) -> None:
    found = step(at(40), seen(surging(), 40, old=old, new=new), 10)
    assert found.verdict == ("go back" if words else "go on")
    assert found.why.startswith(words)
