"""Every refusal names the field, before anything is computed."""

from __future__ import annotations

import pytest
from PIL import Image

from diffusion_worker.model import InvalidRequest, ModelError, Parameters

PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("negative_prompt", {"negative_prompt": "blurry"}),
        ("num_frames", {"num_frames": 9}),
        ("width", {"width": 65}),
        ("height", {"height": 0}),
        ("width", {"width": 1_000_000}),
        ("num_inference_steps", {"num_inference_steps": 0}),
        ("strength", {"strength": 0.5}),
        ("strength", {"strength": 1.5, "images": {"image": PICTURE}}),
        ("strength", {"strength": 0.1, "num_inference_steps": 4, "images": {"image": PICTURE}}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("mask_image", {"images": {"mask_image": PICTURE}}),
        ("output_format", {"output_format": "mp4"}),
        ("colour", {"extra": {"colour": "red"}}),
        ("latents", {"extra": {"latents": 1}}),
        ("output_type", {"extra": {"output_type": "pt"}}),
        ("seed", {"extra": {"seed": 1}}),
        ("width", {"width": 64, "extra": {"width": 32}}),
        ("max_sequence_length", {"extra": {"max_sequence_length": "16"}}),
        ("max_sequence_length", {"extra": {"max_sequence_length": 10**9}}),
        ("guidance_scale", {"guidance_scale": 1.0, "extra": {"true_cfg_scale": 4.0}}),
    ],
)
def test_a_field_that_the_model_does_not_take_is_named(split, field, wrong):
    with pytest.raises(InvalidRequest, match=rf"\b{field}\b"):
        split.encoder.encode(Parameters(**({"prompt": "a red seven", "seed": 1} | wrong)))


def test_an_argument_that_only_this_family_has_is_passed_on(split):
    def embeds(length: int):
        request = Parameters(prompt="a red seven", seed=1, extra={"max_sequence_length": length})
        return split.conditioning(request)["inputs"]["prompt_embeds"]

    assert embeds(8).shape[1] == 8
    assert embeds(24).shape[1] == 24


def test_a_role_refuses_a_stage_that_it_has_not_loaded(split):
    with pytest.raises(ModelError, match="encode"):
        split.denoiser.encode(Parameters(prompt="a red seven", seed=1))
