"""What a role holds, what it only pretends to hold, and what it refuses to load (I9)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusion_worker.model import Parameters, UnsupportedModel, identify, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.modular import ModularModel
from diffusion_worker.model.shells import is_shell
from diffusionpipeline.words import Stage

WEIGHTS = {
    Stage.ENCODE: {"text_encoder", "text_encoder_2", "vae"},
    Stage.DENOISE: {"transformer"},
    Stage.DECODE: {"vae"},
}


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "model"))


def load(path: Path, *stages: Stage, **options: bool) -> ModularModel:
    model = load_model(path=path, stages=frozenset(stages), dtype="float32", device="cpu", **options)
    assert isinstance(model, ModularModel)
    return model


@pytest.mark.parametrize("stage", list(Stage))
def test_a_role_needs_only_its_own_weight_files(copy, stage):
    for name in {"text_encoder", "text_encoder_2", "transformer", "vae"} - WEIGHTS[stage]:
        next((copy / name).glob("*.safetensors")).unlink()

    model = load(copy, stage)

    assert {name for name in model.loaded if model.folder.is_module(name)} == WEIGHTS[stage]


def test_a_shell_has_the_config_and_no_memory(split):
    shells = [one for one in split.decoder._components.values() if is_shell(one)]

    assert {type(shell).__name__ for shell in shells} == {"CLIPTextModel", "T5EncoderModel", "FluxTransformer2DModel"}
    assert all(parameter.is_meta for shell in shells for parameter in shell.parameters())
    assert all(shell.dtype is torch.float32 and shell.device == torch.device("cpu") for shell in shells)


def test_without_its_vae_shell_a_denoiser_makes_the_wrong_size_and_no_error(digits, tmp_path, monkeypatch):
    """Why there are shells: diffusers takes a VAE that it can't see for an 8x one."""
    model = Path(shutil.copytree(digits, tmp_path / "model"))
    config = json.loads((model / "vae" / "config.json").read_text())
    # A 4x VAE by its config: the denoiser reads nothing else of it.
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        config[name] = config[name][:3]
    (model / "vae" / "config.json").write_text(json.dumps(config))
    seven = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)
    conditioning = load(digits, Stage.ENCODE).encode(seven)

    def latents_side(denoiser: ModularModel) -> int:
        return denoiser.denoise(conditioning, seven, Direct())["inputs"]["latents"].shape[-1]

    assert latents_side(load(model, Stage.DENOISE)) == 16
    without = load(model, Stage.DENOISE)
    del without._components["vae"]
    assert latents_side(without) == 8


def test_pickled_weights_are_refused_unless_allowed(copy):
    weights = next((copy / "vae").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))

    with pytest.raises(UnsupportedModel, match="allowPickle"):
        load(copy, Stage.DENOISE)
    assert load(copy, Stage.DENOISE, allow_pickle=True).loaded >= {"transformer"}


def test_code_of_the_models_own_is_refused(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["vae"] = ["my_vae", "MyVae"]
    (copy / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(UnsupportedModel, match="my_vae"):
        load(copy, Stage.DENOISE)


def test_a_role_whose_component_is_missing_says_which(copy):
    shutil.rmtree(copy / "transformer")

    with pytest.raises(UnsupportedModel, match="transformer"):
        load(copy, Stage.DENOISE)


def test_an_index_without_the_component_that_a_role_computes_with_is_refused(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["transformer"] = [None, None]
    (copy / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(UnsupportedModel, match="denoise"):
        load(copy, Stage.ENCODE)


def test_an_unknown_dtype_is_refused(digits):
    with pytest.raises(UnsupportedModel, match="int8"):
        load_model(path=digits, stages=frozenset({Stage.DECODE}), dtype="int8", device="cpu")


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"model_index\.json"):
        load_model(path=tmp_path, stages=frozenset({Stage.DECODE}), dtype="float32", device="cpu")


def test_a_bundled_model_that_does_not_exist_is_refused_with_the_known_ones():
    with pytest.raises(UnsupportedModel, match="digits"):
        resolve_model("Bundled", "../digits", "")


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="nowhere"):
        resolve_model("Path", str(tmp_path / "nowhere"), "")


def test_two_copies_of_a_model_have_one_identity_and_another_config_has_another(digits, copy):
    assert identify(copy) == identify(digits)

    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"shift": 2.5}))

    assert identify(copy) != identify(digits)


def test_the_words_of_the_model_import_without_torch():
    code = "import sys, diffusion_worker.model; assert not {'torch', 'diffusers', 'numpy'} & sys.modules.keys()"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
