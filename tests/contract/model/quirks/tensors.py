"""Quirks of what is in the files of weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .changes import (
    METADATA,
    POINTER,
    SAME,
    SERVED,
    Quirks,
    components,
    weights,
)

QUIRKS = Quirks()
quirk = QUIRKS.quirk


@quirk("a file of no bytes", r"vae.diffusion_pytorch_model\.safetensors: is empty")
def _(folder: Path) -> None:
    weights(folder, "vae").write_bytes(b"")


@quirk("an encoder's file of no bytes", r"text_encoder.model\.safetensors: is empty")
def _(folder: Path) -> None:
    weights(folder, "text_encoder").write_bytes(b"")


@quirk("a file that was cut off", r"vae.diffusion_pytorch_model\.safetensors: was cut off")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    file.write_bytes(file.read_bytes()[:-1000])


@quirk("a file that was cut off in its header", r"text_encoder_2.model\.safetensors: was cut off")
def _(folder: Path) -> None:
    file = weights(folder, "text_encoder_2")
    file.write_bytes(file.read_bytes()[:50])


@quirk("weights that Git LFS left a pointer of", r"transformer.\S+: is a pointer of Git LFS.*git lfs pull")
def _(folder: Path) -> None:
    weights(folder, "transformer").write_text(POINTER)


@quirk("a page that says no, saved as weights", r"transformer.\S+: is no safetensors file")
def _(folder: Path) -> None:
    weights(folder, "transformer").write_text("<!DOCTYPE html><html>Access to this model is gated</html>")


@quirk("weights in double precision", SAME)
def _(folder: Path) -> None:
    file = weights(folder, "transformer")
    save_file({key: value.double() for key, value in load_file(file).items()}, file, METADATA)


@quirk("weights in fp8 without scales", SERVED)
def _(folder: Path) -> None:
    file = weights(folder, "transformer")
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in load_file(file).items()}, file, METADATA)


@quirk("scaled fp8 as ComfyUI writes it", r"transformer: .*has no place for .*scale_weight.*scaled fp8")
def _(folder: Path) -> None:
    file = weights(folder, "transformer")
    tensors = {key: value.to(torch.float8_e4m3fn) for key, value in load_file(file).items()}
    scales = {key.replace(".weight", ".scale_weight"): torch.ones(1) for key in tensors if key.endswith(".weight")}
    save_file(tensors | scales | {"scaled_fp8": torch.zeros(2)}, file, METADATA)


@quirk("numbers of positions, as older versions wrote them", SAME)
def _(folder: Path) -> None:
    file = weights(folder, "text_encoder")
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(load_file(file) | positions, file, METADATA)


@quirk("a tied weight by its other name", SAME)
def _(folder: Path) -> None:
    file = weights(folder, "text_encoder_2")
    tensors = load_file(file)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, file, METADATA)


@quirk("a tied weight by both of its names", SAME)
def _(folder: Path) -> None:
    file = weights(folder, "text_encoder_2")
    tensors = load_file(file)
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, file, METADATA)


@quirk("no word of which framework wrote it", SAME)
def _(folder: Path) -> None:
    for component in components(folder):
        file = weights(folder, component)
        save_file(load_file(file), file)


@quirk("a tensor that is missing", r"vae: \S+: AutoencoderKL lacks decoder\.conv_out\.bias, which would be random")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    tensors = load_file(file)
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, file, METADATA)


@quirk("weights of a model of another size", r"transformer: .*(\[7, 7\]|torch\.Size\(\[7, 7\]\))")
def _(folder: Path) -> None:
    file = weights(folder, "transformer")
    tensors = load_file(file)
    save_file(tensors | {"x_embedder.weight": torch.ones(7, 7)}, file, METADATA)


@quirk("weights of another class", r"vae: \S+: AutoencoderKL lacks")
def _(folder: Path) -> None:
    shutil.copy(weights(folder, "transformer"), weights(folder, "vae"))


@quirk("a weight that is no number", r"vae: NaN or infinite values in decoder\.conv_out\.bias of AutoencoderKL")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    tensors = load_file(file)
    tensors["decoder.conv_out.bias"] = torch.full((3,), float("nan"))
    save_file(tensors, file, METADATA)


@quirk("weights too large for the precision", r"vae: NaN or infinite values in .*model\.dtype", dtype="float16")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    tensors = load_file(file)
    tensors["decoder.conv_out.bias"] = torch.full((3,), 1e6)
    save_file(tensors, file, METADATA)
