"""Claims of StatefulSets, which can't be changed, and role scalers, which are made once: what an edit does to them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.reconcile import claims, labels
from diffusion_operator.render import render
from diffusion_operator.render.scaler import scaler
from unit.render.children import pipeline, stateful_sets

CLAIM = {"storage": {"type": "PersistentVolumeClaim"}}


def router(**sections: Any) -> dict[str, Any]:
    return stateful_sets(render(pipeline(router=CLAIM, **sections)))["router"]


def live(made: dict[str, Any], **spec: object) -> dict[str, Any]:
    """As the API server has it."""
    found = deepcopy(made)
    (claim,) = found["spec"]["volumeClaimTemplates"]
    claim["spec"] |= {"volumeMode": "Filesystem", **spec}
    claim["metadata"]["creationTimestamp"] = None
    claim["status"] = {"phase": "Pending"}
    return found


class TestClaims:
    def test_what_was_made_so_is_left_as_it_is_rendered(self) -> None:
        wanted = router(commonLabels={"team": "paint"})
        assert claims.as_made(wanted, live(wanted)) == (wanted, [])

    def test_labels_and_annotations_stay_as_they_were_made(self) -> None:
        before = router(commonLabels={"team": "paint"})
        for now in ({"commonLabels": {"team": "film"}}, {}, {"commonLabels": {"team": "paint", "more": "1"}}):
            adopted, kept = claims.as_made(router(**now), live(before))
            assert adopted["spec"]["volumeClaimTemplates"] == before["spec"]["volumeClaimTemplates"]
            assert kept == ["labels"]
        adopted, kept = claims.as_made(router(commonLabels={"a": "b"}, commonAnnotations={"a": "b"}), live(router()))
        assert adopted["spec"]["volumeClaimTemplates"] == router()["spec"]["volumeClaimTemplates"]
        assert kept == ["labels", "annotations"]
        words = "claims of StatefulSet digits-router keep the labels and annotations that they were made with"
        assert claims.note("digits-router", kept).startswith(words)

    def test_a_storage_class_stays_as_it_was_made(self) -> None:
        adopted, kept = claims.as_made(router(), live(router(), storageClassName="standard"))
        (claim,) = adopted["spec"]["volumeClaimTemplates"]
        assert (claim["spec"]["storageClassName"], kept) == ("standard", ["storage class"])

    def test_a_size_is_not_passed_over(self) -> None:
        wanted = router()
        assert claims.as_made(wanted, live(wanted, resources={"requests": {"storage": "1Gi"}})) == (wanted, [])


def merged(live: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """JSON merge patch."""
    found = dict(live)
    for name, value in patch.items():
        if isinstance(value, dict):
            found[name] = merged(found.get(name) or {}, value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


class TestScalers:
    def made(self, owner: Pipeline) -> dict[str, Any]:
        return labels.marked(owner, scaler(owner, owner.roles[Role.DENOISER]))

    def edited(self, live: dict[str, Any], owner: Pipeline) -> dict[str, Any]:
        return {**live, "metadata": merged(live["metadata"], labels.patch(owner, live))}

    def test_one_that_is_as_it_should_be_is_not_touched(self) -> None:
        for sections in ({}, {"commonLabels": {"team": "paint"}, "commonAnnotations": {"a": "b"}}):
            owner = pipeline(**sections)
            assert labels.patch(owner, self.made(owner)) == {}

    def test_an_edit_comes_to_what_would_be_made_now_and_others_labels_stay(self) -> None:
        steps: list[dict[str, Any]] = [
            {},
            {"commonLabels": {"team": "paint", "old": "1"}, "commonAnnotations": {"a": "b"}},
            {"commonLabels": {"team": "film"}},
            {},
        ]
        found = self.made(pipeline())
        found["metadata"]["labels"] = {**found["metadata"]["labels"], "somebodys": "1"}
        for sections in steps:
            owner = pipeline(**sections)
            found = self.edited(found, owner)
            wanted = self.made(owner)["metadata"]
            assert found["metadata"]["labels"] == wanted["labels"] | {"somebodys": "1"}
            assert (found["metadata"].get("annotations") or {}) == wanted.get("annotations", {})
            assert labels.patch(owner, found) == {}

    def test_one_that_was_taken_off_by_hand_comes_back(self) -> None:
        owner = pipeline(commonLabels={"team": "paint"})
        found = self.made(owner)
        found["metadata"]["labels"] = {name: "x" for name in found["metadata"]["labels"] if name != "team"}
        assert labels.patch(owner, found) == {"labels": {"team": "paint"}}
