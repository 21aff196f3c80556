"""Pictures, a video or neither: by the output that a pipeline's code makes, never by a part of its name."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from diffusion_worker.model import ModelError, UnsupportedModel
from diffusion_worker.model.media import encode_images
from diffusion_worker.model.products import product_of
from testbed.zoo.catalogue import FAMILIES


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_family_of_the_zoo_makes_what_its_catalogue_says(name):
    pipeline_class = getattr(diffusers, FAMILIES[name].checkpoint.pipeline)

    assert product_of(pipeline_class) == FAMILIES[name].output


@pytest.mark.parametrize(
    ("name", "product"),
    [
        # A video, by no part of the name.
        ("ChronoEditPipeline", "video"),
        ("I2VGenXLPipeline", "video"),
        ("PIAPipeline", "video"),
        ("AnyFlowPipeline", "video"),
        # Frames, and views of a turning object, that are returned as images.
        ("TextToVideoZeroPipeline", "video"),
        ("ShapEPipeline", "video"),
        # Pictures, although the name has what videos' names have.
        ("Cosmos2TextToImagePipeline", "image"),
        ("KandinskyPipeline", "image"),
        ("IFPipeline", "image"),
    ],
)
def test_a_pipelines_name_says_nothing(name, product):
    pipeline_class = getattr(diffusers, name, None)
    assert pipeline_class is not None, f"diffusers {diffusers.__version__} has no {name}"

    assert product_of(pipeline_class) == product


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("StableAudioPipeline", "it makes sound"),
        ("AudioLDM2Pipeline", "it makes sound"),
        ("MarigoldDepthPipeline", "it makes latent, prediction and uncertainty"),
        ("KandinskyPriorPipeline", "it makes image_embeds and negative_image_embeds"),
        ("FluxPriorReduxPipeline", "it makes pooled_prompt_embeds and prompt_embeds"),
    ],
)
def test_what_makes_neither_is_refused_by_what_it_makes(name, words):
    with pytest.raises(UnsupportedModel, match=f"{name}: {words}; only pipelines that make pictures or a video"):
        product_of(getattr(diffusers, name))


def test_frames_are_never_written_as_one_picture():
    frames = np.zeros((1, 5, 8, 8, 3), np.float32)

    with pytest.raises(ModelError, match="5 frames"):
        encode_images(frames, "png")
