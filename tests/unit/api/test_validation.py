"""What a request means, without a server."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from diffusion_router.admission import Terms
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import EDIT, GENERATION, JOB, VIDEO, Kind, request_fields
from diffusion_router.api.limits import Limits
from diffusion_router.api.validation import RequestReader
from diffusionpipeline.v1 import job_pb2, stage_pb2

LIMITS = Limits(
    max_pixels=1_000_000,
    max_steps=50,
    max_frames=100,
    max_prompt_chars=200,
    max_upload_bytes=1000,
    max_images_per_request=4,
    max_artifact_bytes=1000,
    max_seconds=60.0,
    retain_seconds=100.0,
    max_json_values=1000,
    max_body_bytes_in_flight=1000,
    body_seconds=10.0,
)
READER = RequestReader(LIMITS)
KINDS = {"generation": GENERATION, "edit": EDIT, "video": VIDEO, "job": JOB}


def test_one_job_a_picture_with_seeds_that_rise() -> None:
    jobs = READER.read(GENERATION, {"prompt": "x", "n": 3, "seed": 7}).jobs()
    assert [job.seed for job in jobs] == [7, 8, 9]


def test_an_open_seed_stays_open() -> None:
    jobs = READER.read(GENERATION, {"prompt": "x", "n": 2}).jobs()
    assert not any(job.HasField("seed") for job in jobs)


def test_what_is_absent_or_null_is_the_models_default() -> None:
    null = dict.fromkeys(request_fields(GENERATION, LIMITS))
    request = READER.read(GENERATION, {**null, "prompt": "x"})
    assert request.parameters == stage_pb2.JobParameters(prompt="x")
    assert (request.n, request.model, request.as_url, request.terms) == (1, None, False, Terms())


def test_zero_is_not_absent() -> None:
    parameters = READER.read(EDIT, {"prompt": "x", "seed": 0, "strength": 0, "guidance_scale": 0}).parameters
    assert all(parameters.HasField(name) for name in ("seed", "strength", "guidance_scale"))


@pytest.mark.parametrize(
    ("length", "frames", "fps"),
    [
        ({"seconds": "4"}, 64, 16),
        ({"seconds": 2.5, "fps": 10}, 25, 10),
        ({"seconds": "0.001"}, 1, 16),
        ({"num_frames": 9}, 9, 0),
    ],
)
def test_seconds_are_frames_at_a_rate(length: dict[str, object], frames: int, fps: int) -> None:
    parameters = READER.read(VIDEO, {"prompt": "x", **length}).parameters
    assert (parameters.num_frames, parameters.fps) == (frames, fps)


@pytest.mark.parametrize(
    "length", [{"seconds": 7}, {"seconds": 4, "num_frames": 4}, {"seconds": 1e9}, {"seconds": "x"}]
)
def test_a_length_beyond_the_limit_or_given_twice_is_refused(length: dict[str, object]) -> None:
    with pytest.raises(InvalidField) as caught:
        READER.read(VIDEO, {"prompt": "x", **length})
    assert caught.value.field == "seconds"


def test_a_form_reads_as_its_json_twin() -> None:
    twin = {
        "prompt": "12",
        "n": 2,
        "strength": 0.5,
        "stream": False,
        "exact": True,
        "seed": 3,
        "model_args": {"eta": 0.5, "steps": 4, "mode": "fast", "tiled": True},
    }
    form = [
        ("prompt", "12"),
        ("n", "2"),
        ("strength", "0.5"),
        ("stream", "false"),
        ("exact", "true"),
        ("seed", "3"),
        ("model_args[eta]", "0.5"),
        ("model_args[steps]", "4"),
        ("model_args[mode]", "fast"),
        ("model_args[tiled]", "true"),
    ]
    assert READER.parse_form(EDIT, form) == twin
    assert READER.parse_form(EDIT, [("model_args", json.dumps(twin["model_args"]))])["model_args"] == twin["model_args"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(request_fields(JOB, LIMITS) | request_fields(GENERATION, LIMITS))) | st.text(max_size=8)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(values=st.dictionaries(NAMES, JSON, max_size=4), prompt=st.text(max_size=5))
def test_any_object_is_either_a_request_or_refused_by_field(kind: Kind, values: dict[str, Any], prompt: str) -> None:
    try:
        request = READER.read(kind, {"prompt": prompt, **values})
    except InvalidField as error:
        assert error.field is None or isinstance(error.field, str)
        assert str(error)
    else:
        assert request.parameters.prompt
        assert 1 <= request.n <= LIMITS.max_images_per_request
        assert request.parameters.num_frames <= LIMITS.max_frames
        assert request.parameters.width * request.parameters.height <= LIMITS.max_pixels


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(values=st.dictionaries(NAMES, JSON, max_size=3))
def test_what_is_read_has_the_documented_schema(kind: Kind, values: dict[str, Any]) -> None:
    given_values = {"prompt": "x", **{name: value for name, value in values.items() if value is not None}}
    try:
        READER.read(kind, given_values)
    except InvalidField:
        return
    Draft202012Validator(READER.schema(kind)).validate(given_values)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(entries=st.lists(st.tuples(NAMES | st.just("model_args[x]"), st.text(max_size=10)), max_size=4))
def test_any_form_is_either_a_request_or_refused_by_field(kind: Kind, entries: list[tuple[str, str]]) -> None:
    try:
        READER.read(kind, READER.parse_form(kind, entries))
    except InvalidField as error:
        assert str(error)


@given(
    guidance=st.floats() | st.none(),
    steps=st.integers(0, 2**32 - 1) | st.none(),
    extra=st.dictionaries(st.text(max_size=6), st.floats() | st.text(max_size=4) | st.booleans(), max_size=3),
)
def test_any_protobuf_is_either_a_request_or_refused_by_field(
    guidance: float | None, steps: int | None, extra: dict[str, Any]
) -> None:
    message = stage_pb2.JobParameters(prompt="x", guidance_scale=guidance, num_inference_steps=steps)
    for name, value in extra.items():
        kind = {float: "double_value", str: "string_value", bool: "bool_value"}[type(value)]
        setattr(message.extra[name], kind, value)
    try:
        request = READER.read_message(job_pb2.CreateJobRequest(parameters=message))
    except InvalidField as error:
        assert str(error)
    else:
        assert request.parameters == message
        assert guidance is None or math.isfinite(guidance)
