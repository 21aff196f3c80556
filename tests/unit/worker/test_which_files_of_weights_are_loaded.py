"""Of all that makers put into a component's folder, one set of weights is chosen: by names alone."""

from __future__ import annotations

import pytest

from diffusion_worker.model import UnsupportedModel
from diffusion_worker.model.weightfiles import config_files, folders, weights_of

WHOLE, HALF = "model.safetensors", "model.fp16.safetensors"
PIECES = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
HALF_PIECES = {f"model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)}
INDEX, HALF_INDEX = "model.safetensors.index.json", "model.safetensors.index.fp16.json"
NET = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("names", "variant", "files", "indexes"),
    [
        pytest.param({WHOLE, HALF}, "", {WHOLE}, set(), id="without a variant"),
        pytest.param({WHOLE, HALF}, "fp16", {HALF}, set(), id="with one"),
        pytest.param({WHOLE}, "fp16", {WHOLE}, set(), id="one that it does not have"),
        pytest.param({HALF}, "", {HALF}, set(), id="only a variant"),
        pytest.param({HALF}, "bf16", {HALF}, set(), id="only another variant"),
        pytest.param(
            {HALF, "model.ema.safetensors"}, "ema", {"model.ema.safetensors"}, set(), id="one of two variants"
        ),
        pytest.param({*PIECES, INDEX, *HALF_PIECES, HALF_INDEX}, "", PIECES, {INDEX}, id="pieces"),
        pytest.param({*PIECES, INDEX, *HALF_PIECES, HALF_INDEX}, "fp16", HALF_PIECES, {HALF_INDEX}, id="pieces of one"),
        pytest.param(
            {f"{NET}-00001-of-00001.fp16.safetensors", f"{NET}.safetensors.index.fp16.json", f"{NET}.safetensors"},
            "fp16",
            {f"{NET}-00001-of-00001.fp16.safetensors"},
            {f"{NET}.safetensors.index.fp16.json"},
            id="pieces as older versions named them",
        ),
        pytest.param(
            {f"{NET}.non_ema.safetensors", f"{NET}.safetensors"}, "", {f"{NET}.safetensors"}, set(), id="not averaged"
        ),
        pytest.param(
            {WHOLE, "pytorch_model.bin", "flax_model.msgpack", "openvino_model.bin", "model.onnx", "tf_model.h5"},
            "",
            {WHOLE},
            set(),
            id="for other programs",
        ),
        pytest.param({WHOLE, "vae-ft-mse-840000.safetensors"}, "", {WHOLE}, set(), id="other names"),
    ],
)
def test_one_set_is_chosen(names: set[str], variant: str, files: set[str], indexes: set[str]) -> None:
    found = weights_of("text_encoder", names, variant=variant)
    assert found is not None
    assert (set(found.files), set(found.indexes), found.missing) == (files, indexes, "")


@pytest.mark.parametrize("variant", ["", "bf16"])
def test_of_several_variants_none_is_chosen_by_itself(variant: str) -> None:
    names = {f"{NET}.ema.safetensors", f"{NET}.fp16.safetensors"}
    with pytest.raises(UnsupportedModel, match=r"unet: its weights are there as ema and fp16, .* model\.variant"):
        weights_of("unet", names, variant=variant)


def test_of_a_whole_and_its_pieces_each_library_takes_its_own() -> None:
    names = {WHOLE, *PIECES, INDEX}
    transformers, diffusers = (weights_of("x", names, whole_first=first) for first in (True, False))
    assert transformers is not None and diffusers is not None
    assert (set(transformers.files), set(diffusers.files)) == ({WHOLE}, PIECES)


def test_a_piece_that_is_not_there_is_missed() -> None:
    found = weights_of("x", PIECES - {"model-00002-of-00002.safetensors"})
    assert found is not None
    assert found.missing == "piece 2 of 2"


def test_pickles_are_refused_unless_allowed_and_then_are_second_choice() -> None:
    with pytest.raises(UnsupportedModel, match=r"unet: .*\.bin.*model\.allowPickle"):
        weights_of("unet", {f"{NET}.bin"})
    found = weights_of("unet", {f"{NET}.bin", f"{NET}.fp16.bin"}, allow_pickle=True)
    assert found is not None and found.files == (f"{NET}.bin",)
    found = weights_of("unet", {f"{NET}.bin", f"{NET}.safetensors"}, allow_pickle=True)
    assert found is not None and found.files == (f"{NET}.safetensors",)


def test_what_has_no_weights_has_none() -> None:
    assert weights_of("tokenizer", {"tokenizer.json", "vocab.json"}) is None


def test_configs_are_what_is_small_in_the_folders_of_components() -> None:
    listing = {
        "model_index.json",
        "notes.txt",
        "vae/config.json",
        "vae/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/spiece.model",
        "tokenizer/chat_template.jinja",
        "tokenizer/code.py",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model.safetensors.index.fp16.json",
        "onnx/config.json",
    }
    assert config_files(listing, {"vae", "tokenizer", "text_encoder"}) == {
        "vae/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/spiece.model",
        "tokenizer/chat_template.jinja",
    }
    assert folders({"a.json", "vae/x", "vae/deep/y"}) == {"vae": frozenset({"x"})}
