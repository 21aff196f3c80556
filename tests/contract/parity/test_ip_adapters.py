"""IP-Adapters beside a model: split equals whole and the classic pipeline, and they leave nothing behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from testbed.company import denoised_in_company, denoised_in_two, distances
from testbed.zoo.control_nets import Led
from testbed.zoo.processes import Case

FAMILIES = ("sd15", "sdxl", "sd3", "flux")
IN_GATE = ("sd15", "flux")
"""One of each way of cutting."""
ONE = (("look", 0.6),)
BOTH = (("look", 0.6), ("style", None))
TWICE = (("look", 0.6), ("look", 0.3))
SEVERAL = dict.fromkeys(FAMILIES, BOTH) | {"sd3": (("style", None),)}
"""Or another one, where there is one at a time."""
PLUS = (("plus", 0.5), ("look", 0.5))

pytestmark = pytest.mark.timeout(900)

NEAR = 1e-3
"""As a share of the largest value, or of latents: the order of sums."""

each_family = pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one in IN_GATE else pytest.mark.thorough) for one in FAMILIES]
)


def thorough(case: Case) -> Any:
    return pytest.param(
        case, marks=pytest.mark.thorough, id=f"{case.family}-{'-'.join(name for name, _ in case.shown)}"
    )


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(Case(family, shown=ONE), id=family) for family in FAMILIES),
        pytest.param(Case("sd15", shown=PLUS), id="sd15-plus-look"),
        thorough(Case("sdxl", shown=PLUS)),
        *(thorough(Case(family, shown=shown)) for family in ("sd15", "sdxl", "flux") for shown in (BOTH, TWICE)),
        *(thorough(Case(family, shown=(("elsewhere", None),))) for family in FAMILIES),
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
        pytest.param(Case("sd15-image-to-image", shown=ONE), id="sd15-image-to-image"),
        *(thorough(Case(f"{family}-image-to-image", shown=ONE)) for family in ("sdxl", "flux")),
        *(thorough(Case(f"{family}-mask", shown=ONE)) for family in ("sd15", "sdxl")),
    ],
)
def test_a_picture_is_redrawn_as_shown(pipeline: Any, case: Case) -> None:
    """What an encoder makes of a picture comes in another order of axes than in the classic pipeline."""
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) < NEAR


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case("sd15", shown=ONE, controls=(Led("edges", 0.6),)), id="controls"),
        pytest.param(Case("sd15", shown=ONE, adapters=(("one", 0.5),)), id="adapters"),
        pytest.param(Case("sd15", shown=ONE, scheduler="ancestral"), id="scheduler"),
        *(
            pytest.param(
                Case(family, shown=SEVERAL[family], controls=(Led("edges", 0.6),), adapters=(("one", 0.5),)),
                id=family,
                marks=() if family == "flux" else pytest.mark.thorough,
            )
            for family in FAMILIES
        ),
    ],
)
def test_with_what_else_a_request_names_it_equals_the_classic_pipeline_with_it(pipeline: Any, case: Case) -> None:
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0
    without = dataclasses.replace(case, **{name: () for name in ("controls", "adapters") if getattr(case, name)})
    without = dataclasses.replace(without, scheduler="" if case.scheduler else None)
    assert made["split"]["files"] != pipeline.run(without)["split"]["files"]


@each_family
def test_in_half_precision_split_equals_whole(pipeline: Any, family: str) -> None:
    made = pipeline.run(Case(family, "bfloat16", shown=ONE))
    assert made["split"]["files"] == made["whole"]["files"]


@each_family
def test_each_role_loads_of_the_model_what_it_loads_without_them(pipeline: Any, family: str) -> None:
    for role in (pipeline.encoder, pipeline.denoiser, pipeline.decoder):
        with_them, without = role.call("describe", Case(family, shown=())), role.call("describe", Case(family))
        assert with_them["loaded"] == without["loaded"]
        assert with_them["way"] == without["way"]


@each_family
def test_pictures_go_no_further_than_the_encoder(pipeline: Any, family: str) -> None:
    """What is handed on is no larger for a larger picture."""
    one, other = (pipeline.encoder.call("encode", Case(family, shown=ONE, picture=number)) for number in (0, 500))
    assert one != other
    assert len(one) == len(other)


@each_family
def test_they_leave_no_trace(pipeline: Any, family: str) -> None:
    def make(shown: Any) -> Any:
        return pipeline.split(Case(family, shown=shown))["denoised"]

    never = pipeline.split(Case(family))
    assert pipeline.split(Case(family, shown=())) == never
    one, several = make(ONE), make(SEVERAL[family])
    assert len({never["denoised"], one, several}) == 3
    for shown, expected in (((), never["denoised"]), (ONE, one), ((), never["denoised"]), (SEVERAL[family], several)):
        assert make(shown) == expected


@each_family
def test_those_who_are_shown_different_things_take_nothing_of_each_other(pipeline: Any, family: str) -> None:
    cases = [
        Case(family, shown=()),
        Case(family, shown=ONE),
        Case(family, shown=ONE, picture=3),
        Case(family, shown=(("look", 0.2),)),
        Case(family, shown=(("style", 0.6),)),
        Case(family, shown=(*SEVERAL[family][1:], SEVERAL[family][0])),
    ]
    company = denoised_in_company(pipeline, cases)
    assert max(distances(pipeline, company)) < NEAR
    assert len(set(company.together)) == len(cases)


@each_family
def test_a_denoising_goes_on_where_it_was_parked(pipeline: Any, family: str) -> None:
    at_once, in_two = denoised_in_two(pipeline, Case(family, shown=SEVERAL[family]))
    assert in_two == at_once
