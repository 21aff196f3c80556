"""I5 and I12 for every family: guidance in one forward, forwards that requests share, denoisings parked and resumed."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.zoo import FAMILIES
from testbed.zoo.processes import Case, Stay

DTYPES = ("float32", "bfloat16")
# As a share of the largest value of a tensor: what sharing forwards may change.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
# Where diffusers' modular pipeline encodes, or draws its noise, otherwise than its classic one; and what was replayed
# after its layout in memory had changed.
UNLIKE_CLASSIC = {
    *("sdxl-image-to-image", "flux-image-to-image", "qwen-image-to-image", "hunyuan-video15"),
    *("sdxl-mask", "qwen-mask"),
    *("ltx2", "ltx2-image-to-video", "sd15-image-to-image", "sdxl-refiner", "sana"),
}

pytestmark = pytest.mark.timeout(900)

each_family = pytest.mark.parametrize("family", FAMILIES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_mode = pytest.mark.parametrize("gathers", [False, True], ids=["Exact", "Guidance"])


@each_family
@each_dtype
def test_with_guidance_in_one_forward_split_equals_whole(pipeline: Any, family: str, dtype: str) -> None:
    case = Case(family, dtype)
    encoded = pipeline.run(case)["split"]["encoded"]
    split, _ = pipeline.denoiser.call("denoise", case, encoded, gathers=True)
    assert pipeline.whole.call("denoise", case, encoded, gathers=True)[0] == split


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in UNLIKE_CLASSIC])
def test_guided_as_the_classic_pipeline_guides_it_makes_that_ones_bits(pipeline: Any, family: str) -> None:
    assert pipeline.whole.call("distance_to_classic", Case(family), gathers=True) == 0.0


@each_family
@each_dtype
@each_mode
def test_parked_at_any_step_and_resumed_elsewhere_it_makes_the_same_bytes(
    pipeline: Any, family: str, dtype: str, gathers: bool
) -> None:
    case = Case(family, dtype)
    encoded = pipeline.run(case)["split"]["encoded"]
    undisturbed, steps = pipeline.denoiser.call("denoise", case, encoded, gathers=gathers)
    assert pipeline.denoiser.call("describe", case)["resumable"] == {True}, "and its workers say so"
    for step in range(1, len(steps)):
        parked, before = pipeline.denoiser.call("denoise", case, encoded, gathers=gathers, park_at=step)
        resumed, after = pipeline.whole.call("denoise", case, parked, gathers=gathers)
        assert resumed == undisturbed, f"parked at step {step}"
        assert before + after == steps


@each_family
@each_dtype
def test_requests_that_share_forwards_differ_by_rounding_and_exact_ones_by_nothing(
    pipeline: Any, family: str, dtype: str
) -> None:
    cases = [Case(family, dtype, changes=(("seed", seed),)) for seed in (7, 8, 9)]
    alone = [pipeline.split(case) for case in cases]
    stays = [
        Stay(case, one["encoded"], exact=place == 1, joins=place)
        for place, (case, one) in enumerate(zip(cases, alone, strict=True))
    ]
    together = pipeline.denoiser.call("denoise_together", stays)
    assert together["denoised"][1] == alone[1]["denoised"]
    for shared, one in zip(together["denoised"], alone, strict=True):
        assert pipeline.denoiser.call("distance", shared, one["denoised"]) <= TOLERANCE[dtype]


@each_family
@each_dtype
def test_requests_come_go_wait_and_end_among_others_and_the_same_arrivals_make_the_same_bytes(
    pipeline: Any, family: str, dtype: str
) -> None:
    more = int(FAMILIES[family].request["num_inference_steps"])
    cases = [
        Case(family, dtype, changes=(("seed", seed), ("num_inference_steps", more + seed))) for seed in range(1, 6)
    ]
    alone = [pipeline.split(case) for case in cases]
    first, held, exact, cancelled, last = (
        {"case": case, "encoded": one["encoded"]} for case, one in zip(cases, alone, strict=True)
    )
    stays = [
        Stay(**first),
        Stay(**held, joins=1, held=(2, 5)),
        Stay(**exact, joins=1, exact=True),
        Stay(**cancelled, joins=1, cancelled=4),
        Stay(**last, joins=3),
    ]
    together = pipeline.denoiser.call("denoise_together", stays)
    assert pipeline.denoiser.call("denoise_together", stays) == together
    assert together["denoised"][2] == alone[2]["denoised"]
    assert together["denoised"][3] is None
    for place in (0, 1, 2, 4):
        made = together["denoised"][place]
        assert pipeline.denoiser.call("distance", made, alone[place]["denoised"]) <= TOLERANCE[dtype]
        decoded = pipeline.decoder.call("decode", cases[place], made)
        assert place != 2 or decoded["files"] == alone[2]["files"]
        own = [step for who, step in together["steps"] if who == place]
        assert own == [step for step, _ in alone[place]["steps"]]
