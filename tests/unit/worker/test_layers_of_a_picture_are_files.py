"""A layered model's picture is several files with their alpha channels; anything else that has frames is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffusion_worker.model.media import encode_images, encode_video
from diffusion_worker.model.types import Media, ModelError

# [layers, height, width, channels]
LAYERS = np.stack([np.full((8, 16, 4), shade / 255, np.float32) for shade in (10, 100, 200)])


def opened(file: Media) -> Image.Image:
    return Image.open(io.BytesIO(file.data))


def test_each_layer_is_a_picture_with_its_alpha_channel_in_order() -> None:
    files = encode_images([LAYERS], "png", layered=True)
    assert [opened(file).getpixel((0, 0)) for file in files] == [(shade,) * 4 for shade in (10, 100, 200)]
    assert {(file.width, file.height, file.num_frames) for file in files} == {(16, 8, 1)}


def test_a_format_without_alpha_leaves_it_out() -> None:
    assert {opened(file).mode for file in encode_images([LAYERS], "jpeg", layered=True)} == {"RGB"}
    frames = (LAYERS * 255).astype(np.uint8)
    assert encode_video(frames, 8).num_frames == len(LAYERS)


def test_frames_of_a_model_without_layers_are_no_pictures() -> None:
    with pytest.raises(ModelError, match="returned 3 frames"):
        encode_images([LAYERS], "png")
