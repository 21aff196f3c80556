"""`clip_skip`, an argument of some families alone: heeded as by diffusers' pipeline, or refused, never ignored."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.zoo.processes import Case, RoleError

pytestmark = pytest.mark.timeout(900)


def skipping(family: str, layers: int) -> Case:
    return Case(family, changes=(("extra", {"clip_skip": layers}),))


@pytest.mark.parametrize("clipped", ["sd15", "sdxl", "sd3"])
def test_split_equals_whole_and_the_classic_pipeline_and_differs_with_the_layers(pipeline: Any, clipped: str) -> None:
    made = []
    for layers in (0, 1):
        case = skipping(clipped, layers)
        split = pipeline.split(case)
        assert split["pixels"] == pipeline.whole.call("whole", case)["pixels"]
        assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0
        made.append(split["pixels"])
    assert made[0] != made[1]


def test_a_family_without_it_refuses_it(pipeline: Any) -> None:
    with pytest.raises(RoleError, match=r"clip_skip: Flux.* does not take it"):
        pipeline.encoder.call("encode", skipping("flux", 1))
