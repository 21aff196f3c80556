"""I5: three model objects that share nothing but payloads make the same bytes as one that holds all roles."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from diffusion_worker.model import Parameters

SEVEN = Parameters(prompt="a red 7 on a black background", seed=7)
SIX = Parameters(prompt="a handwritten six", seed=2**63, num_inference_steps=4, width=96, height=64)


@pytest.mark.parametrize("parameters", [SEVEN, SIX], ids=["defaults", "own size and steps"])
def test_a_picture_drawn_by_three_roles_equals_the_one_drawn_by_one(whole, split, parameters):
    assert split.draw(parameters) == whole.draw(parameters)


def test_roles_agree_in_bfloat16_too(digits, roles_of):
    cut, uncut = (roles_of(digits, "bfloat16", split=split) for split in (True, False))

    latents = cut.latents(SEVEN)["inputs"]["latents"]

    assert latents.dtype is torch.bfloat16
    assert torch.equal(latents, uncut.latents(SEVEN)["inputs"]["latents"])
    assert cut.draw(SEVEN) == uncut.draw(SEVEN)


def test_an_image_redrawn_by_three_roles_equals_the_one_redrawn_by_one(whole, split):
    first = Image.open(io.BytesIO(whole.draw(SEVEN)[0].data))
    redraw = Parameters(prompt="a blue 3 on a white background", seed=1, images={"image": first}, strength=0.7)

    redrawn = split.draw(redraw)

    assert redrawn == whole.draw(redraw)
    assert redrawn != whole.draw(SEVEN)


def test_a_prompt_alone_makes_a_picture_of_the_models_own_size(split):
    (media,) = split.draw(Parameters(prompt="a red seven", seed=3))

    picture = Image.open(io.BytesIO(media.data))

    assert (media.media_type, media.num_frames) == ("image/png", 1)
    assert picture.size == (media.width, media.height) == (64, 64)
    assert picture.getextrema() != ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_the_picture_comes_in_the_format_asked_for(split, output_format, name):
    (media,) = split.draw(Parameters(prompt="a red seven", seed=3, output_format=output_format))

    assert Image.open(io.BytesIO(media.data)).format == name
    assert media.media_type == f"image/{output_format}"


def test_the_seed_and_nothing_else_tells_two_pictures_of_a_prompt_apart(split):
    pictures = [split.draw(Parameters(prompt="a red seven", seed=seed))[0].data for seed in (1, 2, 1)]

    assert pictures[0] == pictures[2] != pictures[1]


def test_only_what_a_later_role_declares_crosses_a_boundary(split):
    conditioning, latents = split.conditioning(SEVEN), split.latents(SEVEN)

    assert set(conditioning["inputs"]) == {"pooled_prompt_embeds", "prompt_embeds"}
    assert set(latents["inputs"]) == {"height", "latents", "width"}


def test_how_far_a_role_has_drawn_crosses_the_boundary_after_it(split, whole):
    first = Image.open(io.BytesIO(whole.draw(SEVEN)[0].data))
    redraw = Parameters(prompt="a blue 3", seed=SEVEN.seed, images={"image": first}, strength=0.7)
    fresh = torch.Generator().manual_seed(SEVEN.seed).get_state()

    assert "generator" not in split.conditioning(SEVEN), "no role before the denoiser drew"
    for state in (split.latents(SEVEN), split.conditioning(redraw)):
        assert not torch.equal(state["generator"].get_state(), fresh)
