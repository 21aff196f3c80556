"""ControlNets beside a model: split equals whole and the classic pipeline, and they leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.company import denoised_in_company, denoised_in_two, distances
from testbed.zoo.control_nets import Led
from testbed.zoo.processes import Case

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "qwen-image")
IN_GATE = ("sd15", "sdxl")
"""One of each way of cutting."""
ONE = (Led("edges", 0.6),)
BOTH = (Led("edges", 0.6), Led("depth", start=0.1, end=0.9))
TWICE = (Led("edges", 0.6), Led("edges", 0.3))
SEVERAL = dict.fromkeys(FAMILIES, BOTH) | {"qwen-image": TWICE}
KINDS = (Led("union", 0.6, mode=1), Led("edges", 0.4))

pytestmark = pytest.mark.timeout(900)

NEAR = 1e-3
"""As a share of the largest value, or of latents: the order of sums."""


def marks(family: str) -> Any:
    return () if family in IN_GATE else pytest.mark.thorough


each_family = pytest.mark.parametrize("led", [pytest.param(one, marks=marks(one)) for one in FAMILIES])


def thorough(case: Case) -> Any:
    return pytest.param(case, marks=pytest.mark.thorough, id=f"{case.family}-{len(case.controls or ())}")


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(Case(family, controls=ONE), id=family, marks=marks(family)) for family in FAMILIES),
        pytest.param(Case("sd15", controls=BOTH), id="sd15-2"),
        *(thorough(Case(family, controls=SEVERAL[family])) for family in FAMILIES if family != "sd15"),
        *(thorough(Case("flux", controls=controls)) for controls in (KINDS[:1], KINDS)),
        pytest.param(Case("sd15", controls=TWICE), id="sd15-twice", marks=pytest.mark.thorough),
    ],
)
def test_split_equals_whole_and_the_classic_pipeline(pipeline: Any, case: Case) -> None:
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert made["split"]["pixels"] == made["whole"]["pixels"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case("sd15-image-to-image", controls=ONE), id="sd15-image-to-image"),
        *(thorough(Case(family, controls=ONE)) for family in ("sd15-mask", "sdxl-image-to-image", "sdxl-mask")),
        *(thorough(Case("flux-image-to-image", controls=controls)) for controls in (ONE, BOTH)),
    ],
)
def test_a_picture_is_redrawn_as_led(pipeline: Any, case: Case) -> None:
    """What an encoder makes of a picture comes in another order of axes than in the classic pipeline."""
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) < NEAR


@each_family
def test_in_half_precision_split_equals_whole(pipeline: Any, led: str) -> None:
    made = pipeline.run(Case(led, "bfloat16", controls=ONE))
    assert made["split"]["files"] == made["whole"]["files"]


@each_family
def test_each_role_loads_of_the_model_what_it_loads_without_them(pipeline: Any, led: str) -> None:
    """Of a hub's model it has no more than that."""
    for role in (pipeline.encoder, pipeline.denoiser, pipeline.decoder):
        with_them, without = role.call("describe", Case(led, controls=())), role.call("describe", Case(led))
        assert with_them["loaded"] == without["loaded"]
        assert with_them["way"] == without["way"]
        assert {"edges", "depth"} <= set(with_them["leading"]) or role is not pipeline.denoiser
        assert not with_them["leading"] or role is pipeline.denoiser


@each_family
def test_they_leave_no_trace(pipeline: Any, led: str) -> None:
    def make(controls: Any) -> Any:
        return pipeline.split(Case(led, controls=controls))["denoised"]

    never = pipeline.split(Case(led))
    assert pipeline.split(Case(led, controls=())) == never
    one, several = make(ONE), make(SEVERAL[led])
    assert len({never["denoised"], one, several}) == 3
    for controls, expected in (((), never["denoised"]), (ONE, one), ((), never["denoised"]), (SEVERAL[led], several)):
        assert make(controls) == expected


@each_family
def test_those_who_are_led_differently_take_nothing_of_each_other(pipeline: Any, led: str) -> None:
    cases = [
        Case(led, controls=()),
        Case(led, controls=ONE),
        Case(led, controls=ONE, picture=3),
        Case(led, controls=(Led("edges", 0.2),)),
        Case(led, controls=(Led("depth", 0.6),)),
        Case(led, controls=SEVERAL[led]),
    ]
    company = denoised_in_company(pipeline, cases)
    assert max(distances(pipeline, company)) < NEAR
    assert len(set(company.together)) == len(cases)


@each_family
def test_a_led_denoising_goes_on_where_it_was_parked(pipeline: Any, led: str) -> None:
    at_once, in_two = denoised_in_two(pipeline, Case(led, controls=SEVERAL[led]))
    assert in_two == at_once


def test_with_an_adapter_it_equals_the_classic_pipeline_with_it(pipeline: Any) -> None:
    case = Case("sd15", controls=ONE, adapters=(("one", 0.5),))
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0
    assert made["split"]["files"] != pipeline.run(Case("sd15", controls=ONE, adapters=()))["split"]["files"]


@pytest.mark.parametrize("led", ["sd15", "sdxl"])
def test_by_another_scheduler_it_equals_the_classic_pipeline_with_that(pipeline: Any, led: str) -> None:
    case = Case(led, controls=ONE, scheduler="ancestral")
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0
    assert made["split"]["files"] != pipeline.run(Case(led, controls=ONE, scheduler=""))["split"]["files"]
