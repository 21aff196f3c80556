"""A request names a scheduler, and gives neither a class nor options of one."""

from __future__ import annotations

import pytest

from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import JOB, KINDS
from diffusion_router.peers.conditioning import key
from diffusionpipeline.v1 import stage_pb2
from unit.api.test_validation import READER


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_request_takes_one_as_json_and_in_a_form(kind: object) -> None:
    asked = READER.read(kind, {"prompt": "x", "scheduler": "fast"})  # type: ignore[arg-type]
    form = READER.parse_form(JOB, [("prompt", "x"), ("scheduler", "fast")])
    assert asked.parameters.scheduler == "fast"
    assert READER.read(JOB, form).parameters == asked.parameters
    assert not READER.read(JOB, {"prompt": "x", "scheduler": None}).parameters.HasField("scheduler")


@pytest.mark.parametrize(
    "wrong", [{"class": "DDIMScheduler"}, ["fast"], 7, "", "a" * 64, True], ids=lambda value: str(value)[:20]
)
def test_anything_but_a_name_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidField) as refused:
        READER.read(JOB, {"prompt": "x", "scheduler": wrong})
    assert refused.value.field == "scheduler"


def test_it_can_be_no_argument_of_the_pipeline() -> None:
    with pytest.raises(InvalidField) as refused:
        READER.read(JOB, {"prompt": "x", "model_args": {"scheduler": "fast"}})
    assert "model_args" in refused.value.field


def test_requests_of_two_schedulers_share_an_encoding_only_where_encoding_does_not_read_it() -> None:
    asked = [stage_pb2.JobParameters(prompt="x", scheduler=name) for name in ("fast", "slow")]
    asked.append(stage_pb2.JobParameters(prompt="x"))
    assert len({key(one, frozenset(["prompt"])) for one in asked}) == 1
    assert len({key(one, frozenset(["prompt", "scheduler"])) for one in asked}) == 3
