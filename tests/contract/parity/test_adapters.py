"""I12 with LoRA: split equals whole and the classic pipeline, and an adapter leaves nothing behind once it is off."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.company import denoised_in_company
from testbed.zoo.processes import Case, Stay

FAMILIES = ("sd15", "sdxl", "flux", "qwen-image", "wan21", "sd3", "wan22", "z-image", "ltx")
IN_GATE = ("sd15", "wan21")
"""One of each way of cutting, a model of pictures and one of videos."""
BOTH = (("one", 0.5), ("two", -0.7))

pytestmark = pytest.mark.timeout(900)

each_family = pytest.mark.parametrize(
    "adapted", [pytest.param(one, marks=() if one in IN_GATE else pytest.mark.thorough) for one in FAMILIES]
)
each_set = pytest.mark.parametrize(
    "adapters",
    [(), (("one", None),), (("two", None),), BOTH, BOTH[::-1]],
    ids=["none", "one", "another", "both", "the-other-way-round"],
)


@each_family
@each_set
def test_split_equals_whole_and_the_classic_pipeline(pipeline: Any, adapted: str, adapters: Any) -> None:
    case = Case(adapted, adapters=adapters)
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert made["split"]["pixels"] == made["whole"]["pixels"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0


@each_family
def test_in_half_precision_split_equals_whole(pipeline: Any, adapted: str) -> None:
    case = Case(adapted, "bfloat16", adapters=BOTH)
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]


@each_family
def test_on_off_and_over_leave_no_trace(pipeline: Any, adapted: str) -> None:
    def make(adapters: Any) -> Any:
        return pipeline.split(Case(adapted, adapters=adapters))["denoised"]

    never = pipeline.split(Case(adapted))["denoised"]
    one, two, both = make((("one", None),)), make((("two", None),)), make(BOTH)
    assert len({never, one, two, both}) == 4
    for adapters, expected in (((), never), ((("one", None),), one), (BOTH, both), ((), never)):
        assert make(adapters) == expected


@each_family
def test_those_with_other_adapters_share_no_forward(pipeline: Any, adapted: str) -> None:
    sets: Any = ((), (("one", None),), (("one", 0.5),), BOTH)
    cases = [Case(adapted, adapters=adapters) for adapters in sets]
    company = denoised_in_company(pipeline, cases)
    assert company.together == company.alone


@each_family
def test_those_with_the_same_adapters_do(pipeline: Any, adapted: str) -> None:
    cases = [Case(adapted, adapters=BOTH, changes=(("seed", seed),)) for seed in (7, 8)]
    encoded = [pipeline.encoder.call("encode", case) for case in cases]
    together = pipeline.denoiser.call("denoise_together", [Stay(*one) for one in zip(cases, encoded, strict=True)])
    assert together["forwards"]["joined"]
