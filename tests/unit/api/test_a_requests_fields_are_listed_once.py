"""What the protobuf lists, every other place has: the rest of a new field's way is made from its two lines."""

from __future__ import annotations

import dataclasses

import pytest

from diffusion_router.api.kinds import JOB, PARAMETERS, request_fields
from diffusion_router.api.objects import ParametersObject, job_object
from diffusion_worker.model.types import Parameters
from diffusion_worker.work.tasks import parameters
from diffusionpipeline.v1 import job_pb2, stage_pb2
from unit.api.test_validation import LIMITS, READER

MESSAGE = stage_pb2.JobParameters.DESCRIPTOR
NAMED = {"adapters", "controls", "ip_adapters"}
"""Lists of what a pipeline offers by name."""


def test_a_field_of_the_protobuf_can_be_asked_for_and_is_shown() -> None:
    by_size = {"width", "height"}
    assert request_fields(JOB, LIMITS).keys() >= PARAMETERS - by_size
    assert set(ParametersObject.model_fields) == (PARAMETERS - by_size) | {"size", "model_args", *NAMED}


def test_a_worker_knows_every_field() -> None:
    names = {field.name for field in dataclasses.fields(Parameters)}
    assert names == PARAMETERS | {"images", "extra", *NAMED}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_what_is_given_arrives_and_what_is_not_is_the_models_default(name: str) -> None:
    field = MESSAGE.fields_by_name[name]
    value = "webp" if field.cpp_type == field.CPPTYPE_STRING else 0
    given = parameters(stage_pb2.JobParameters(**{name: value}), {})
    default = Parameters(prompt="", seed=0)
    assert given == dataclasses.replace(default, **{name: value})


def test_a_jobs_parameters_are_shown_as_they_were_asked_for() -> None:
    asked: dict[str, object] = {
        "prompt": "x",
        "seed": 0,
        "strength": 0.0,
        "num_frames": 8,
        "size": "64x32",
        "model_args": {"eta": 0.5},
    }
    asked["adapters"] = [{"name": "ink", "scale": 0.5}, {"name": "house", "scale": None}]
    unsaid = {"start": None, "end": None, "mode": None}
    asked["controls"] = [{"name": "edges", "scale": 0.0, **unsaid}, {"name": "depth", "scale": None, **unsaid}]
    asked["ip_adapters"] = [{"name": "style", "scale": 0.5}, {"name": "face", "scale": None}]
    request = READER.read(JOB, {**asked, "output_format": "mp4"})
    job = job_pb2.Job(status=job_pb2.JOB_STATUS_QUEUED, parameters=request.parameters)
    shown = job_object(job, "", 0.0).parameters.model_dump()
    assert shown == {**dict.fromkeys(ParametersObject.model_fields), **asked, "output_format": "mp4"}
