"""Weights that lack a tensor, hold others or no numbers are refused; libraries would fill in random values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_worker.model import ModelError, Parameters, UnsupportedModel, load_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import Stage

Tensors = dict[str, torch.Tensor]

STAGES = {
    "text_encoder": Stage.ENCODE,
    "text_encoder_2": Stage.ENCODE,
    "transformer": Stage.DENOISE,
    "vae": Stage.DECODE,
}
SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)


class Copy:
    """A copy of the bundled model, whose weights a test writes anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def weights(self, component: str) -> Path:
        return next((self.path / component).glob("*.safetensors"))

    def change(self, component: str, change: Callable[[Tensors], None]) -> None:
        file = self.weights(component)
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    def load(self, *stages: Stage):
        return load_model(path=self.path, stages=frozenset(stages), dtype="float32", device="cpu")


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(digits, tmp_path / "model")))


@pytest.fixture(params=STAGES)
def component(request: pytest.FixtureRequest) -> str:
    return request.param


def a_tensor(tensors: Tensors) -> str:
    return sorted(tensors)[3]


def too_large(key: str) -> Callable[[Tensors], None]:
    """Weights that are numbers, but with which one computes none."""
    return lambda tensors: tensors.update({key: torch.full_like(tensors[key], 3e38, dtype=torch.float32)})


def test_a_tensor_that_is_missing_is_named_with_its_file(copy, component):
    key = a_tensor(load_file(copy.weights(component)))
    copy.change(component, lambda tensors: tensors.pop(key))

    with pytest.raises(UnsupportedModel, match=r"lacks [\w.]+, which would be random values") as refused:
        copy.load(STAGES[component])

    # Libraries name what they load by their classes' present names; an older file may have a prefix more.
    named = str(refused.value).partition("lacks ")[2].partition(",")[0]
    assert key.endswith(named)
    assert copy.weights(component).name in str(refused.value)


def test_tensors_that_a_class_has_no_place_for_are_named(copy, component):
    scales = {f"scaled.{number}.scale_weight": torch.ones(1) for number in range(5)}
    copy.change(component, lambda tensors: tensors.update(scales))

    with pytest.raises(UnsupportedModel, match=r"no place for scaled\.0\S+ scaled\.1\S+ scaled\.2\S+ and 2 more"):
        copy.load(STAGES[component])


def test_a_tensor_of_another_shape_is_named(copy, component):
    key = a_tensor(load_file(copy.weights(component)))
    copy.change(component, lambda tensors: tensors.update({key: torch.ones(7)}))

    with pytest.raises(UnsupportedModel) as refused:
        copy.load(STAGES[component])

    assert key.rpartition("layers.")[2] in str(refused.value)
    assert "[7]" in str(refused.value)


def test_a_weight_that_is_no_number_is_named(copy, component):
    key = a_tensor(load_file(copy.weights(component)))
    copy.change(component, lambda tensors: tensors[key].view(-1)[:1].fill_(float("nan")))

    with pytest.raises(UnsupportedModel, match="NaN or infinite values in"):
        copy.load(STAGES[component])


def test_what_a_class_computes_by_itself_may_be_in_its_file(copy):
    """Files of older versions hold the numbers of positions."""
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    copy.change("text_encoder", lambda tensors: tensors.update(positions))

    copy.load(Stage.ENCODE)


def test_a_tied_weight_may_go_by_its_other_name(copy, whole):
    def rename(tensors: Tensors) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    copy.change("text_encoder_2", rename)

    made = copy.load(Stage.ENCODE).encode(SEVEN)

    assert torch.equal(made["inputs"]["prompt_embeds"], whole.encoder.encode(SEVEN)["inputs"]["prompt_embeds"])


def test_latents_that_are_no_numbers_are_an_error_and_no_black_picture(copy, whole):
    copy.change("transformer", too_large("proj_out.weight"))
    denoiser = copy.load(Stage.DENOISE)

    with pytest.raises(ModelError, match=r"^denoise: NaN or infinite values in latents: .*model\.dtype"):
        denoiser.denoise(whole.encoder.encode(SEVEN), SEVEN, Direct())


def test_pixels_that_are_no_numbers_are_an_error_and_no_black_picture(copy, whole):
    copy.change("vae", too_large("decoder.conv_out.weight"))
    decoder = copy.load(Stage.DECODE)
    latents = whole.denoiser.denoise(whole.encoder.encode(SEVEN), SEVEN, Direct())

    with pytest.raises(ModelError, match=r"^pixels of Decoder: NaN or infinite values:"):
        decoder.decode(latents)
