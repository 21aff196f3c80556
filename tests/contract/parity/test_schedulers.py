"""I5 and I12 by a scheduler that a request names: split equals whole and diffusers' pipeline with the scheduler swapped
as it documents it, parked anywhere it goes on with the same bits, and who comes after has none of it."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.company import denoised_in_company, distances
from testbed.zoo.processes import Case
from testbed.zoo.schedulers import names_for

FAMILIES = ("sd15", "sdxl", "flux", "wan21")
IN_GATE = ("sd15", "flux")
"""One of each way of cutting, a model of noise and one of flow."""
UNSEEDED = {("flux", "drawn"), ("wan21", "drawn")}
"""Classic pipelines that hand their scheduler no generator, so that what they draw is the process's own."""
STEPS = 4

pytestmark = pytest.mark.timeout(900)


def marks(family: str) -> Any:
    return () if family in IN_GATE else pytest.mark.thorough


each = pytest.mark.parametrize(
    ("swapped", "name"),
    [pytest.param(one, name, marks=marks(one)) for one in FAMILIES for name in names_for(one)],
)
each_family = pytest.mark.parametrize("swapped", [pytest.param(one, marks=marks(one)) for one in FAMILIES])


def case_of(family: str, scheduler: str, seed: int = 7, steps: int = STEPS) -> Case:
    return Case(family, scheduler=scheduler, changes=(("num_inference_steps", steps), ("seed", seed)))


@each
def test_split_equals_whole_and_the_classic_pipeline(pipeline: Any, swapped: str, name: str) -> None:
    case = case_of(swapped, name)
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert made["split"]["pixels"] == made["whole"]["pixels"]
    if (swapped, name) not in UNSEEDED:
        assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0


@each
def test_parked_at_any_step_it_goes_on_with_the_same_bits(pipeline: Any, swapped: str, name: str) -> None:
    case = case_of(swapped, name)
    made = pipeline.run(case)["split"]
    reported = [step for step, _ in made["steps"]]
    assert reported == list(range(1, len(reported) + 1))
    assert {total for _, total in made["steps"]} == {len(reported)}, "the last step said is the last there is"
    for at in reported[:-1]:
        parked, before = pipeline.denoiser.call("denoise", case, made["encoded"], park_at=at)
        assert before == made["steps"][:at]
        ended, after = pipeline.whole.call("denoise", case, parked)
        assert ended == made["denoised"], f"parked at {at}"
        assert after == made["steps"][at:]


@each_family
def test_one_after_another_leaves_no_trace(pipeline: Any, swapped: str) -> None:
    def make(scheduler: str | None) -> tuple[str, ...]:
        case = Case(swapped, scheduler=scheduler, changes=(("num_inference_steps", STEPS),))
        return tuple(pipeline.split(case)["pixels"])

    never, own = make(None), make("")
    assert own == never
    first = [make(name) for name in names_for(swapped)]
    assert len({own, *first}) == 1 + len(first)
    assert [make(name) for name in reversed(names_for(swapped))] == first[::-1]
    assert make("") == never


@each_family
def test_requests_with_different_schedulers_share_forwards_and_keep_their_bits(pipeline: Any, swapped: str) -> None:
    cases = [case_of(swapped, name) for name in ("", *names_for(swapped))]
    company = denoised_in_company(pipeline, cases)
    assert company.forwards["joined"]
    assert max(distances(pipeline, company)) < 1e-4
