"""A resource as the API server has it becomes a pipeline whatever else it carries, and fast: there are thousands."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from diffusion_operator.api import InvalidResourceError, Role, from_live, load_pipeline, with_defaults
from diffusion_operator.render import render

ROOT = Path(__file__).parents[3]
FILES = sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "tests/unit/render/features").glob("*.yaml")])


def stored(file: Path) -> dict[str, Any]:
    """As the API server would give it."""
    resource = with_defaults(yaml.safe_load(file.read_text()))
    resource["metadata"] |= {
        "uid": "8a6a8b0e-7f0c-4a4e-9a43-1c1d0f9a3c11",
        "generation": 3,
        "resourceVersion": "812",
        "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
    }
    return resource | {"status": {"observedGeneration": 2, "conditions": []}}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_the_pipeline_that_the_file_says(file: Path) -> None:
    assert from_live(stored(file)) == load_pipeline(yaml.safe_load(file.read_text()))


def test_what_a_newer_definition_knows_is_passed_over() -> None:
    resource = stored(FILES[0])
    resource["spec"] |= {"tomorrow": {"a": 1}}
    resource["spec"]["roles"]["denoiser"]["tomorrow"] = True
    assert from_live(resource) == from_live(stored(FILES[0]))


def test_what_an_older_definition_did_not_know_has_its_default() -> None:
    resource = stored(FILES[0])
    for section in ("sharedMemorySize", "monitoring", "networkPolicy", "suspend"):
        del resource["spec"][section]
    del resource["spec"]["router"]["storage"]
    assert from_live(resource) == from_live(stored(FILES[0]))


def test_reading_changes_nothing_of_the_resource() -> None:
    resource, same = stored(FILES[0]), stored(FILES[0])
    render(from_live(resource))
    assert resource == same


def test_what_cannot_be_rendered_is_refused_with_its_field() -> None:
    resource = stored(FILES[0])
    resource["spec"]["roles"]["denoiser"]["podTemplate"] = {"spec": {"containers": "main"}}
    with pytest.raises(InvalidResourceError, match=r"spec\.roles\.denoiser\.podTemplate\.spec\.containers: must be a"):
        from_live(resource)


@pytest.mark.parametrize("broken", [{}, {"model": None}, {"model": {"source": "Hub"}, "roles": []}])
def test_a_resource_that_no_definition_ever_allowed_is_refused_in_words(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidResourceError, match=r"spec: can't be read .*kubectl apply -f crds/"):
        from_live({"metadata": {"name": "x"}, "spec": broken})


def test_external_roles_take_their_count_from_their_scaler_and_colocated_ones_from_the_denoiser() -> None:
    resource = stored(ROOT / "examples/digits-external-scaling.yaml")
    pipeline = from_live(resource)
    assert pipeline.count(Role.DENOISER, {Role.DENOISER: 4}) == 4
    assert pipeline.count(Role.ENCODER, {Role.ENCODER: 4}) == 1
    resource["spec"]["roles"]["decoder"] = {"colocateWith": "denoiser"}
    assert from_live(resource).count(Role.DECODER, {Role.DENOISER: 4}) == 4
    resource["spec"]["suspend"] = True
    assert from_live(resource).count(Role.DENOISER, {Role.DENOISER: 4}) == 0


def test_reading_and_rendering_are_cheap() -> None:
    """About a millisecond on a machine of its own; calls are counted, since time differs from machine to machine."""
    for file in FILES:
        resource, calls = stored(file), 0

        def count(_: FrameType, event: str, __: object) -> None:
            nonlocal calls
            calls += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            render(from_live(resource))
        finally:
            sys.setprofile(before)
        assert 0 < calls < 2500, file.stem
