"""What `families.py` adds to the blocks' own declarations, seen on tiny random models."""

from __future__ import annotations

import pytest
from PIL import Image

from diffusion_worker.model import InvalidRequest, Parameters, load_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import Stage
from testbed.zoo import FAMILIES, ensure

PICTURE = Image.new("RGB", (32, 32), "red")


def load(name: str, stage: Stage):
    return load_model(path=ensure(FAMILIES[name].checkpoint), stages=frozenset({stage}), dtype="float32", device="cpu")


def request(name: str, **changes) -> Parameters:
    family = FAMILIES[name]
    output_format = "mp4" if family.output == "video" else "png"
    images = dict.fromkeys(family.images, PICTURE)
    return Parameters(
        **({"seed": 7, "output_format": output_format, "images": images} | dict(family.request) | changes)
    )


def draw(name: str, parameters: Parameters) -> bytes:
    values = load(name, Stage.ENCODE).encode(parameters)
    values = load(name, Stage.DENOISE).denoise(values, parameters, Direct())
    return load(name, Stage.DECODE).decode(values)[0].data


@pytest.mark.parametrize("name", ["sdxl", "sd3", "z-image", "wan21", "ltx"])
def test_the_guidance_scale_of_a_request_reaches_the_picture(name):
    weak, strong = (draw(name, request(name, guidance_scale=scale)) for scale in (2.0, 9.0))

    assert weak != strong


@pytest.mark.parametrize("name", ["wan21", "hunyuan-video15", "ltx"])
def test_guidance_can_be_switched_off_though_the_blocks_want_a_negative_prompt(name):
    assert draw(name, request(name, guidance_scale=1.0))


def test_the_classic_name_of_qwens_guidance_means_the_same():
    fields = {"negative_prompt": "blurry", "guidance_scale": None}

    classic = draw("qwen-image", request("qwen-image", **fields, extra={"true_cfg_scale": 3.0}))

    assert classic == draw("qwen-image", request("qwen-image", **fields | {"guidance_scale": 3.0}))


def test_the_denoiser_of_sdxl_declares_a_vae_and_loads_none():
    assert "vae" not in load("sdxl", Stage.DENOISE).loaded


def test_the_encoder_of_sdxl_loads_no_unet_for_an_adapter_that_no_request_uses():
    assert "unet" not in load("sdxl", Stage.ENCODE).loaded


def test_a_workflow_whose_encoder_the_folder_lacks_is_not_served():
    encoder = load("hunyuan-video15", Stage.ENCODE)

    with pytest.raises(InvalidRequest, match="image"):
        encoder.encode(request("hunyuan-video15", images={"image": PICTURE}))


def test_an_image_to_video_model_asks_for_its_image():
    encoder = load("wan-image-to-video", Stage.ENCODE)

    with pytest.raises(InvalidRequest, match="image"):
        encoder.encode(request("wan-image-to-video", images={}))
