"""Controls are named, each with its picture: in JSON inside of it, in a form as a file of its own."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from diffusion_router.api.body import inlined
from diffusion_router.api.controls import check_pictures, with_pictures, without_pictures
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import EDIT, GENERATION, JOB, VIDEO
from diffusionpipeline.v1 import stage_pb2
from unit.api.test_validation import READER

EDGES: dict[str, Any] = {"name": "edges", "scale": 0.8, "start": 0.1, "end": 0.9, "mode": 2}
READ: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([], []),
    ([EDGES, {"name": "depth"}], [EDGES, {"name": "depth"}]),
    ([{"name": "depth", "scale": None, "mode": None}], [{"name": "depth"}]),
    ([{"name": "depth", "scale": 0, "start": 0}], [{"name": "depth", "scale": 0, "start": 0}]),
    ([{"name": "edges"}, {"name": "edges"}], [{"name": "edges"}, {"name": "edges"}]),
]
PICTURE = base64.b64encode(b"0123").decode()


@pytest.mark.parametrize("kind", [GENERATION, EDIT, JOB], ids=["generation", "edit", "job"])
@pytest.mark.parametrize(("given", "controls"), READ, ids=str)
def test_they_are_read_in_order_and_what_is_not_given_stays_open(kind: Any, given: Any, controls: Any) -> None:
    wanted = [stage_pb2.Control(**control) for control in controls]
    assert list(READER.read(kind, {"prompt": "x", "controls": given}).parameters.controls) == wanted


def test_a_form_has_them_as_json() -> None:
    values = READER.parse_form(EDIT, [("prompt", "x"), ("controls", json.dumps([EDGES]))])
    assert list(READER.read(EDIT, values).parameters.controls) == [stage_pb2.Control(**EDGES)]
    with pytest.raises(InvalidField, match="give 'controls' as JSON, and files 'controls"):
        READER.parse_form(EDIT, [("prompt", "x"), ("controls", "edges")])


REFUSED: list[tuple[object, str, str]] = [
    ("edges", "controls", "must be a list"),
    (EDGES, "controls", "must be a list"),
    ([EDGES] * 5, "controls", "at most 4"),
    (["edges"], "controls[0]", "must be an object"),
    ([EDGES, {}], "controls[1].name", "is required: a ControlNet is chosen by its name"),
    ([{"name": 7}], "controls[0].name", "must be a name"),
    ([{"name": "/nets/edges"}], "controls[0].name", "no path or address"),
    ([{"name": "edges", "weight": 1}], "controls[0].weight", "Unknown field"),
    ([{"name": "edges", "scale": "1"}], "controls[0].scale", "must be a number"),
    ([{"name": "edges", "scale": 101}], "controls[0].scale", "must be from -100 to 100"),
    ([{"name": "edges", "start": 0.5, "end": 0.5}], "controls[0].start", "must be below its end"),
    ([{"name": "edges", "start": 1}], "controls[0].start", "must be below its end"),
    ([{"name": "edges", "end": 0}], "controls[0].end", "must be above its start"),
    ([{"name": "edges", "end": 1.5}], "controls[0].end", "must be from 0 to 1"),
    ([{"name": "edges", "mode": -1}], "controls[0].mode", "must be from 0"),
    ([{"name": "edges", "mode": 0.5}], "controls[0].mode", "must be a whole number"),
]


@pytest.mark.parametrize(("given", "field", "said"), REFUSED, ids=str)
def test_what_can_not_be_served_is_refused_by_field(given: object, field: str, said: str) -> None:
    with pytest.raises(InvalidField, match=said) as refused:
        READER.read(JOB, {"prompt": "x", "controls": given})
    assert refused.value.field == field


def test_videos_take_none() -> None:
    with pytest.raises(InvalidField, match="'controls' is not for this kind of request"):
        READER.read(VIDEO, {"prompt": "x", "controls": [EDGES]})


@pytest.mark.parametrize("kind", [GENERATION, EDIT, JOB], ids=["generation", "edit", "job"])
def test_in_json_each_holds_its_picture(kind: Any) -> None:
    controls = [{"name": "a", "image": PICTURE}, {"name": "b", "image": f"data:image/png;base64,{PICTURE}"}]
    found = inlined(kind, {"prompt": "x", "controls": controls})
    assert found == [("controls[0].image", b"0123"), ("controls[1].image", b"0123")]
    assert without_pictures(controls) == [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize(
    ("controls", "field"),
    [
        ([{"name": "a", "image": PICTURE}, {"name": "b"}], "controls[1].image"),
        ([{"name": "a", "image": None}], "controls[0].image"),
        ([{"name": "a", "image": "https://example.com/a.png"}], "controls[0].image"),
        ([{"name": "a", "image": [PICTURE]}], "controls[0].image"),
        ([{"name": "a", "image": 7}], "controls[0].image"),
    ],
)
def test_in_json_a_picture_that_is_missing_or_none_is_named(controls: object, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        inlined(JOB, {"controls": controls})
    assert refused.value.field == field


@pytest.mark.parametrize("controls", [None, "edges", 7, [7], [[]], {"image": PICTURE}], ids=str)
def test_what_is_no_list_of_controls_has_no_pictures(controls: object) -> None:
    assert inlined(JOB, {"controls": controls}) == []
    assert without_pictures(controls) == controls


def test_in_a_form_there_are_as_many_pictures_as_controls() -> None:
    check_pictures(2, 2)
    with pytest.raises(InvalidField, match="Of 2 controls 1 have a picture") as missing:
        check_pictures(2, 1)
    assert missing.value.field == "controls[1].image"
    with pytest.raises(InvalidField, match="but 1 controls") as left_over:
        check_pictures(1, 2)
    assert left_over.value.field == "controls"


def test_the_document_tells_where_pictures_go() -> None:
    plain, whole = READER.schema(GENERATION), with_pictures(READER.schema(GENERATION))
    assert "image" not in plain["properties"]["controls"]["items"]["properties"]
    assert whole["properties"]["controls"]["items"]["required"] == ["name", "image"]
    assert with_pictures(READER.schema(VIDEO)) == READER.schema(VIDEO)


def test_by_grpc_they_are_refused_for_files_can_not_come_with_it() -> None:
    message = stage_pb2.JobParameters(prompt="x", controls=[stage_pb2.Control(name="edges")])
    with pytest.raises(InvalidField, match="its pictures are sent to POST /v1/jobs"):
        READER.read_parameters(message)
