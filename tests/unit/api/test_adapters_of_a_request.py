"""Adapters are named, with scales, in each of the ways that servers take them, and never by a path or an address."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import EDIT, GENERATION, JOB, VIDEO
from diffusionpipeline.v1 import job_pb2, stage_pb2
from unit.api.test_validation import READER

INK = {"name": "ink", "scale": 0.8}
FORMS: list[tuple[dict[str, object], list[dict[str, Any]]]] = [
    ({}, []),
    ({"adapters": []}, []),
    ({"adapters": [INK, {"name": "house-2.1"}]}, [INK, {"name": "house-2.1"}]),
    ({"adapters": [INK, "house-2.1"]}, [INK, {"name": "house-2.1"}]),
    ({"adapters": [{"name": "ink", "scale": None}]}, [{"name": "ink"}]),
    ({"loras": [INK, "house-2.1"]}, [INK, {"name": "house-2.1"}]),
    ({"lora": INK}, [INK]),
    ({"lora": "ink"}, [{"name": "ink"}]),
    ({"lora": "ink", "adapters": None}, [{"name": "ink"}]),
    ({"adapters": [{"name": "ink", "scale": 0}]}, [{"name": "ink", "scale": 0}]),
]


@pytest.mark.parametrize("kind", [GENERATION, EDIT, VIDEO, JOB], ids=["generation", "edit", "video", "job"])
@pytest.mark.parametrize(("given", "adapters"), FORMS, ids=str)
def test_adapters_are_read_in_order_and_a_scale_that_is_not_given_stays_open(
    kind: Any, given: dict[str, object], adapters: list[dict[str, Any]]
) -> None:
    wanted = [stage_pb2.Adapter(**adapter) for adapter in adapters]
    assert list(READER.read(kind, {"prompt": "x", **given}).parameters.adapters) == wanted


@pytest.mark.parametrize(("given", "adapters"), FORMS, ids=str)
def test_a_form_has_them_as_json_or_as_the_name_of_one(given: dict[str, Any], adapters: list[dict[str, Any]]) -> None:
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in given.items() if value]
    values = READER.parse_form(EDIT, [("prompt", "x"), *texts])
    wanted = [stage_pb2.Adapter(**adapter) for adapter in adapters]
    assert list(READER.read(EDIT, values).parameters.adapters) == wanted
    assert list(
        READER.read(EDIT, READER.parse_form(EDIT, [("prompt", "x"), ("adapters", "ink")])).parameters.adapters
    ) == [stage_pb2.Adapter(name="ink")]


REFUSED: list[tuple[dict[str, object], str, str]] = [
    ({"adapters": "ink"}, "adapters", "must be a list"),
    ({"adapters": INK}, "adapters", "must be a list"),
    ({"adapters": [f"a{number}" for number in range(9)]}, "adapters", "at most 8"),
    ({"adapters": [7]}, "adapters[0]", "must be an adapter's name, or an object"),
    ({"lora": [INK]}, "lora", "must be an adapter's name, or an object"),
    ({"adapters": ["ink", {}]}, "adapters[1].name", "is required: an adapter is chosen by its name"),
    ({"adapters": [{"name": 7}]}, "adapters[0].name", "must be a string"),
    ({"adapters": [{"name": ""}]}, "adapters[0].name", "no path or address"),
    ({"adapters": [{"name": "a" * 129}]}, "adapters[0].name", "must be a name"),
    ({"adapters": [{"name": "/etc/ink.safetensors"}]}, "adapters[0].name", "no path or address"),
    ({"adapters": [{"name": "../ink"}]}, "adapters[0].name", "no path or address"),
    ({"loras": [{"name": "https://a/ink"}]}, "loras[0].name", "GET /v1/models lists them"),
    ({"lora": "someone/ink"}, "lora", "others are added to spec.model.adapters"),
    ({"adapters": [{"name": "ink", "path": "/ink"}]}, "adapters[0].path", "an adapter is chosen by its name"),
    ({"lora": {"name": "ink", "url": "https://a"}}, "lora.url", "an adapter is chosen by its name"),
    ({"adapters": ["ink", "house", INK]}, "adapters[2].name", "'ink' is given twice"),
    ({"adapters": [{"name": "ink", "scale": "1"}]}, "adapters[0].scale", "must be a number"),
    ({"adapters": [{"name": "ink", "scale": True}]}, "adapters[0].scale", "must be a number"),
    ({"adapters": [{"name": "ink", "scale": 100.5}]}, "adapters[0].scale", "from -100 to 100"),
    ({"adapters": [{"name": "ink", "scale": float("nan")}]}, "adapters[0].scale", "from -100 to 100"),
    ({"adapters": [INK], "loras": ["house"]}, "loras", "give one of the two"),
    ({"lora": "ink", "loras": ["ink"]}, "lora", "give one of the two"),
]


@pytest.mark.parametrize(("given", "field", "words"), REFUSED, ids=str)
def test_what_is_no_name_with_a_scale_is_refused_by_its_place(given: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InvalidField) as caught:
        READER.read(JOB, {"prompt": "x", **given})
    assert caught.value.field == field
    assert words in str(caught.value)
    assert repr(field) in str(caught.value)


def test_protobuf_has_the_same_rules_and_keeps_an_open_scale_open() -> None:
    asked = stage_pb2.JobParameters(prompt="x", adapters=[{"name": "ink"}, {"name": "house", "scale": 0}])
    assert READER.read_message(job_pb2.CreateJobRequest(parameters=asked)).parameters == asked
    for adapters, field in (
        ([{"name": "/ink"}], "adapters[0].name"),
        ([{"name": "ink"}] * 2, "adapters[1].name"),
        ([{"name": "ink", "scale": float("inf")}], "adapters[0].scale"),
    ):
        with pytest.raises(InvalidField) as caught:
            READER.read_message(
                job_pb2.CreateJobRequest(parameters=stage_pb2.JobParameters(prompt="x", adapters=adapters))
            )
        assert caught.value.field == field


def test_a_request_of_several_pictures_has_them_in_each() -> None:
    jobs = READER.read(JOB, {"prompt": "x", "n": 3, "adapters": [INK]}).jobs()
    assert [[adapter.name for adapter in job.adapters] for job in jobs] == [["ink"]] * 3
