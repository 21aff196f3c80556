"""ControlNets and IP-Adapters of a request are named, each with its picture: in JSON inside of it, in a form as a file
of its own."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from diffusion_router.api.body import inlined
from diffusion_router.api.documents import json_body, json_or_form_body
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import EDIT, GENERATION, JOB, PICTURED, VIDEO
from diffusion_router.api.pictured import PicturedList, without_pictures
from diffusionpipeline.v1 import job_pb2, stage_pb2
from unit.api.test_validation import READER

ONE: dict[str, Any] = {"name": "a", "scale": 0.8}
READ: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([], []),
    ([ONE, {"name": "b"}], [ONE, {"name": "b"}]),
    ([{"name": "b", "scale": None}], [{"name": "b"}]),
    ([{"name": "b", "scale": 0}], [{"name": "b", "scale": 0}]),
    ([{"name": "a"}, {"name": "a"}], [{"name": "a"}, {"name": "a"}]),
]
PICTURE = base64.b64encode(b"0123").decode()

listed = pytest.mark.parametrize("listed", PICTURED, ids=lambda one: one.field)
kinds = pytest.mark.parametrize("kind", [GENERATION, EDIT, JOB], ids=["generation", "edit", "job"])


@listed
@kinds
@pytest.mark.parametrize(("given", "read"), READ, ids=str)
def test_they_are_read_in_order_and_what_is_not_given_stays_open(
    listed: PicturedList[Any], kind: Any, given: Any, read: Any
) -> None:
    parameters = READER.read(kind, {"prompt": "x", listed.field: given}).parameters
    assert list(getattr(parameters, listed.field)) == [listed.message(**one) for one in read]


def test_a_request_may_have_both() -> None:
    given = {"controls": [ONE], "ip_adapters": [{"name": "b", "scale": 0.5}]}
    parameters = READER.read(JOB, {"prompt": "x", **given}).parameters
    assert list(parameters.controls) == [stage_pb2.Control(**ONE)]
    assert list(parameters.ip_adapters) == [stage_pb2.IPAdapter(name="b", scale=0.5)]
    pictures = {name: [{"name": "a", "image": PICTURE}] for name in given}
    assert inlined(GENERATION, pictures) == [("controls[0].image", b"0123"), ("ip_adapters[0].image", b"0123")]


@listed
def test_a_form_has_them_as_json(listed: PicturedList[Any]) -> None:
    values = READER.parse_form(EDIT, [("prompt", "x"), (listed.field, json.dumps([ONE]))])
    assert list(getattr(READER.read(EDIT, values).parameters, listed.field)) == [listed.message(**ONE)]
    with pytest.raises(InvalidField, match=f"give '{listed.field}' as JSON, and files '{listed.field}.image"):
        READER.parse_form(EDIT, [("prompt", "x"), (listed.field, "a")])


REFUSED: list[tuple[object, str, str]] = [
    ("a", "", "must be a list"),
    (ONE, "", "must be a list"),
    ([ONE] * 5, "", "at most 4"),
    (["a"], "[0]", "must be an object"),
    ([ONE, {}], "[1].name", "is required: name one of the {kind}s that GET /v1/models lists"),
    ([{"name": 7}], "[0].name", "must be a name"),
    ([{"name": "/nets/a"}], "[0].name", "no path or address"),
    ([{"name": "a", "weight": 1}], "[0].weight", "Unknown field"),
    ([{"name": "a", "scale": "1"}], "[0].scale", "must be a number"),
    ([{"name": "a", "scale": 101}], "[0].scale", "must be from -100 to 100"),
]


@listed
@pytest.mark.parametrize(("given", "at", "said"), REFUSED, ids=str)
def test_what_can_not_be_served_is_refused_by_field(
    listed: PicturedList[Any], given: object, at: str, said: str
) -> None:
    with pytest.raises(InvalidField, match=said.format(kind=listed.kind)) as refused:
        READER.read(JOB, {"prompt": "x", listed.field: given})
    assert refused.value.field == listed.field + at


def test_an_ip_adapter_leads_in_all_steps() -> None:
    with pytest.raises(InvalidField, match=r"Unknown field 'ip_adapters\[0\]\.start'"):
        READER.read(JOB, {"prompt": "x", "ip_adapters": [{"name": "a", "start": 0.5}]})


@listed
def test_videos_take_none(listed: PicturedList[Any]) -> None:
    with pytest.raises(InvalidField, match=f"'{listed.field}' is not for this kind of request"):
        READER.read(VIDEO, {"prompt": "x", listed.field: [ONE]})


@listed
@kinds
def test_in_json_each_holds_its_picture(listed: PicturedList[Any], kind: Any) -> None:
    given = [{"name": "a", "image": PICTURE}, {"name": "b", "image": f"data:image/png;base64,{PICTURE}"}]
    found = inlined(kind, {"prompt": "x", listed.field: given})
    assert found == [(f"{listed.field}[0].image", b"0123"), (f"{listed.field}[1].image", b"0123")]
    assert without_pictures(given) == [{"name": "a"}, {"name": "b"}]


@listed
@pytest.mark.parametrize(
    ("given", "index"),
    [
        ([{"name": "a", "image": PICTURE}, {"name": "b"}], 1),
        ([{"name": "a", "image": None}], 0),
        ([{"name": "a", "image": "https://example.com/a.png"}], 0),
        ([{"name": "a", "image": [PICTURE]}], 0),
        ([{"name": "a", "image": 7}], 0),
    ],
)
def test_in_json_a_picture_that_is_missing_or_none_is_named(
    listed: PicturedList[Any], given: object, index: int
) -> None:
    with pytest.raises(InvalidField) as refused:
        inlined(JOB, {listed.field: given})
    assert refused.value.field == f"{listed.field}[{index}].image"


@listed
@pytest.mark.parametrize("given", [None, "a", 7, [7], [[]], {"image": PICTURE}], ids=str)
def test_what_is_no_list_of_them_has_no_pictures(listed: PicturedList[Any], given: object) -> None:
    assert inlined(JOB, {listed.field: given}) == []
    assert without_pictures(given) == given


@listed
def test_in_a_form_there_are_as_many_pictures_as_names(listed: PicturedList[Any]) -> None:
    listed.check_pictures(2, 2)
    with pytest.raises(InvalidField, match=f"Of 2 {listed.kind}s 1 have a picture") as missing:
        listed.check_pictures(2, 1)
    assert missing.value.field == f"{listed.field}[1].image"
    with pytest.raises(InvalidField, match=f"but 1 {listed.kind}s") as left_over:
        listed.check_pictures(1, 2)
    assert left_over.value.field == listed.field


@listed
def test_the_document_tells_where_pictures_go(listed: PicturedList[Any]) -> None:
    def items(body: dict[str, Any], media_type: str) -> dict[str, Any]:
        found: dict[str, Any] = body["requestBody"]["content"][media_type]["schema"]["properties"]
        return found[listed.field]["items"]

    json_alone = json_body(READER.schema(GENERATION))
    both = json_or_form_body(READER.schema(EDIT), EDIT)
    for body in (json_alone, both):
        assert items(body, "application/json")["required"] == ["name", "image"]
    assert "image" not in items(both, "multipart/form-data")["properties"]
    content = both["requestBody"]["content"]
    assert listed.form_file in content["multipart/form-data"]["schema"]["properties"]
    assert listed.form_file not in content["application/json"]["schema"]["properties"]
    videos = json_body(READER.schema(VIDEO))["requestBody"]["content"]["application/json"]["schema"]
    assert videos == READER.schema(VIDEO)


@listed
def test_by_grpc_they_are_refused_for_files_can_not_come_with_it(listed: PicturedList[Any]) -> None:
    message = stage_pb2.JobParameters(prompt="x", **{listed.field: [listed.message(name="a")]})
    with pytest.raises(InvalidField, match="its pictures are sent to POST /v1/jobs"):
        READER.read_message(job_pb2.CreateJobRequest(parameters=message))
