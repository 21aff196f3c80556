"""Step boundaries: where progress goes out and cancel comes in; and what a retry may rely on."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from diffusion_worker.model import ModelError, Parameters, StepCancelled
from diffusion_worker.model.driving import Direct

SEVEN = Parameters(prompt="a red seven", seed=7, num_inference_steps=5)


def ignore(step: int, steps: int) -> None:
    """Listens to no step."""


def test_each_step_is_reported_once_in_order(split):
    seen: list[tuple[int, int]] = []

    split.latents(SEVEN, lambda step, steps: seen.append((step, steps)))

    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_cancelled_denoising_stops_at_that_step_and_leaves_the_model_usable(split):
    conditioning = split.conditioning(SEVEN)
    undisturbed = split.denoiser.denoise(conditioning, SEVEN, Direct(ignore))
    seen: list[int] = []

    def cancel_at_second(step: int, steps: int) -> None:
        seen.append(step)
        if step == 2:
            raise StepCancelled

    with pytest.raises(StepCancelled):
        split.denoiser.denoise(conditioning, SEVEN, Direct(cancel_at_second))
    again = split.denoiser.denoise(conditioning, SEVEN, Direct(ignore))

    assert seen == [1, 2]
    assert torch.equal(again["inputs"]["latents"], undisturbed["inputs"]["latents"])


def test_a_listener_hears_nothing_of_the_next_request(split):
    seen: list[int] = []
    split.latents(SEVEN, lambda step, steps: seen.append(step))
    heard = len(seen)

    split.latents(SEVEN)

    assert len(seen) == heard


def test_denoising_the_same_values_twice_makes_the_same_latents(split):
    redraw = Parameters(prompt="a blue three", seed=3, images={"image": Image.new("RGB", (64, 64), "white")})
    for parameters in (SEVEN, redraw):
        conditioning = split.conditioning(parameters)

        first, second = (split.denoiser.denoise(conditioning, parameters, Direct(ignore)) for _ in range(2))

        assert torch.equal(first["inputs"]["latents"], second["inputs"]["latents"])


def test_decoding_the_same_values_twice_makes_the_same_file(split):
    latents = split.latents(SEVEN)

    assert split.decoder.decode(latents) == split.decoder.decode(latents)


def test_requests_do_not_leak_into_each_other(split):
    other = Parameters(prompt="a handwritten four", seed=8, num_inference_steps=4, guidance_scale=2.0)
    alone = split.draw(SEVEN)

    split.draw(other)

    assert split.draw(SEVEN) == alone


def test_a_stage_refuses_values_that_another_pipeline_made(split):
    conditioning = split.conditioning(SEVEN) | {"pipeline": "SomeOtherModularPipeline"}

    with pytest.raises(ModelError, match="SomeOtherModularPipeline"):
        split.denoiser.denoise(conditioning, SEVEN, Direct(ignore))


def test_no_progress_bar_is_drawn(split, capfd):
    split.draw(SEVEN)

    assert capfd.readouterr() == ("", "")
