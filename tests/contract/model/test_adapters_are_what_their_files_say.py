"""LoRA files that diffusers would load in part, or into another model's layers, are refused; names alone are served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion_worker.model import (
    AdapterFile,
    AdapterFiles,
    InvalidRequest,
    Parameters,
    UnsupportedModel,
    Values,
    Wanted,
    load_model,
)
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import Stage

Tensors = dict[str, torch.Tensor]

SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)
LAYER = "transformer.transformer_blocks.0.attn.to_q"


def lora(layer: str = LAYER, seed: int = 0, inputs: int = 128, outputs: int = 128) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn((4, inputs), generator=draw), torch.randn((outputs, 4), generator=draw)
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


def saved(tensors: Tensors, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, place, metadata={"format": "pt"})
    return place


@pytest.fixture
def load(digits: Path) -> Callable[..., object]:
    def load(*listed: AdapterFile, folder: Path | None = None, room: int = 8, stage: Stage = Stage.DENOISE):
        files = AdapterFiles(listed, folder, room)
        return load_model(path=digits, stages=frozenset({stage}), dtype="float32", device="cpu", adapters=files)

    return load


@pytest.fixture(scope="session")
def encoded(split) -> Values:
    return split.conditioning(SEVEN)


@pytest.fixture
def latents(encoded: Values) -> Callable[..., torch.Tensor]:
    def latents(model, *wanted: Wanted) -> torch.Tensor:
        made = model.denoise(encoded, dataclasses.replace(SEVEN, adapters=wanted), Direct())
        return made["inputs"]["latents"]

    return latents


def without_a_half() -> Tensors:
    return {key: tensor for key, tensor in lora().items() if "lora_B" not in key}


REFUSED = {
    "of another model": (lora("transformer.blocks.0.attn1.to_q"), "has no layer blocks.0.attn1.to_q"),
    "of another size": (lora(inputs=64), r"to_q is \[128, 128\], and the adapter is made for \[128, 64\]"),
    "wider, as Control LoRA": (lora("transformer.x_embedder", inputs=32), "x_embedder is .* made for another model"),
    "with one of two halves": (without_a_half(), "but one of two halves"),
    "with norms": (lora() | {"transformer.norm_out.norm_q.weight": torch.ones(4)}, "holds more than LoRA"),
    "of a part that has none": (lora() | lora("text_encoder_2.encoder.block.0.q"), "no place for text_encoder_2"),
    "without a prefix": (lora("transformer_blocks.0.attn.to_q"), "no place for transformer_blocks.0"),
    "without LoRA": ({"transformer.proj_out.weight": torch.ones(4, 4)}, "holds no|holds more than LoRA"),
    "with NaN": ({key: tensor * float("nan") for key, tensor in lora().items()}, "NaN or infinite values"),
    "with DoRA": (lora() | {f"{LAYER}.dora_scale": torch.ones(128, 1)}, "is DoRA"),
}


@pytest.mark.parametrize("tensors, said", REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_this_models_is_refused_by_name(tensors: Tensors, said: str, load, tmp_path: Path) -> None:
    file = saved(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(UnsupportedModel, match=said) as refused:
        load(AdapterFile("wrong", file))
    assert str(file) in str(refused.value)
    assert "Error" not in str(refused.value)


def pointer(place: Path) -> str:
    place.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")
    return "is a pointer of Git LFS"


def cut_off(place: Path) -> str:
    place.write_bytes(saved(lora(), place).read_bytes()[:-100])
    return "was cut off"


def missing(_place: Path) -> str:
    return "there is no such file or folder"


@pytest.mark.parametrize("spoil", [pointer, cut_off, missing])
def test_a_file_that_is_not_whole_is_refused(spoil: Callable[[Path], str], load, tmp_path: Path) -> None:
    place = tmp_path / "one.safetensors"
    said = spoil(place)
    with pytest.raises(UnsupportedModel, match=said):
        load(AdapterFile("one", place))


def test_which_of_a_folders_files_has_to_be_clear(load, tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(lora(), tmp_path / f"{name}.safetensors")
    with pytest.raises(UnsupportedModel, match=r"a\.safetensors, b\.safetensors: say in `file` which"):
        load(AdapterFile("one", tmp_path))
    load(AdapterFile("one", tmp_path, file="b.safetensors"))
    saved(lora(), tmp_path / "pytorch_lora_weights.safetensors")
    load(AdapterFile("one", tmp_path))
    (tmp_path / "pickled.bin").write_bytes(b"\x80")
    with pytest.raises(UnsupportedModel, match="safetensors files alone"):
        load(AdapterFile("one", tmp_path, file="pickled.bin"))


def test_each_role_reads_its_own_part(load, latents, tmp_path: Path) -> None:
    both = lora() | lora("text_encoder.encoder.layers.0.self_attn.q_proj", inputs=64, outputs=64)
    file = AdapterFile("one", saved(both, tmp_path / "both.safetensors"))
    encoder, denoiser = load(file, stage=Stage.ENCODE), load(file)
    wanted = dataclasses.replace(SEVEN, adapters=[Wanted("one")])
    plain, turned = encoder.encode(SEVEN), encoder.encode(wanted)
    assert not torch.equal(plain["inputs"]["pooled_prompt_embeds"], turned["inputs"]["pooled_prompt_embeds"])
    assert {"adapters"} <= encoder.workflows[0].encoding_reads, "who encodes otherwise shares no encoding"
    assert not torch.equal(latents(denoiser), latents(denoiser, Wanted("one")))
    alone = AdapterFile("two", saved(lora(), tmp_path / "network.safetensors"))
    assert "adapters" not in load(alone, stage=Stage.ENCODE).workflows[0].encoding_reads


def test_only_names_that_there_are_can_be_asked_for(load, latents, tmp_path: Path) -> None:
    model = load(AdapterFile("one", saved(lora(), tmp_path / "one.safetensors")))
    for name in ("two", str(tmp_path / "one.safetensors"), "../one", ""):
        with pytest.raises(InvalidRequest, match=r"adapters\[0\]\.name: there is no adapter .*; there are: one"):
            latents(model, Wanted(name))
    with pytest.raises(InvalidRequest, match=r"this pipeline has none: name them in its model\.adapters"):
        latents(load(), Wanted("one"))


def test_a_folders_adapters_are_loaded_when_wanted_and_the_least_recently_used_goes(
    load, latents, tmp_path: Path
) -> None:
    names = ("a", "b", "c")
    expected = {}
    for seed, name in enumerate(names):
        file = saved(lora(seed=seed), tmp_path / "kept" / f"{name}.safetensors")
        expected[name] = latents(load(AdapterFile(name, file)), Wanted(name))
    model = load(folder=tmp_path / "kept", room=2)

    def loaded() -> list[str]:
        return [one.name for one in model.adapters_offered() if one.loaded]

    never = latents(model)
    assert loaded() == []
    for name, there in (("a", ["a"]), ("b", ["a", "b"]), ("a", ["a", "b"]), ("c", ["a", "c"]), ("b", ["b", "c"])):
        assert torch.equal(latents(model, Wanted(name)), expected[name])
        assert loaded() == there
    assert torch.equal(latents(model), never)
    with pytest.raises(InvalidRequest, match=r"3 of the adapter folder at once, at most 2 .*maxLoadedAdapters"):
        latents(model, *map(Wanted, names))

    saved(lora(seed=9), tmp_path / "kept" / "later" / "pytorch_lora_weights.safetensors")
    (tmp_path / "kept" / ".hidden").mkdir()
    (tmp_path / "kept" / "with space.safetensors").write_bytes(b"")
    assert [one.name for one in model.adapters_offered()] == ["a", "b", "c", "later"]
    assert not torch.equal(latents(model, Wanted("later")), never)
    (tmp_path / "kept" / "broken.safetensors").write_bytes(b"")
    with pytest.raises(InvalidRequest, match=r"broken\.safetensors: is empty"):
        latents(model, Wanted("broken"))
    assert torch.equal(latents(model, Wanted("c")), expected["c"])


def test_one_that_was_dropped_in_the_middle_of_a_denoising_is_loaded_again(load, encoded, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        saved(lora(seed=seed), tmp_path / f"{name}.safetensors")
    longer = dataclasses.replace(SEVEN, num_inference_steps=4)

    def denoise(model, name: str, on_step=lambda _step, _steps: None) -> torch.Tensor:
        wanted = dataclasses.replace(longer, adapters=[Wanted(name)])
        return model.denoise(encoded, wanted, Direct(on_step))["inputs"]["latents"]

    undisturbed = denoise(load(folder=tmp_path), "a")
    model = load(folder=tmp_path, room=1)

    def another_comes(step: int, _steps: int) -> None:
        if step == 2:
            denoise(model, "b")

    assert torch.equal(denoise(model, "a", another_comes), undisturbed)
