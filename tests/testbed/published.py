"""A folder as people publish models on a hub: more than anybody needs to serve it.

Beside what a pipeline of diffusers reads there are the same weights again: a half-precision variant of each component,
pickles, another framework's, and checkpoints of the whole for other programs, in the root and in a folder of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

VARIANT: Final = "fp16"
SHARDED: Final = ("text_encoder_3", "transformer")
"""What is published in pieces: of SD3 the T5, and here the transformer as well, by diffusers' own names."""
PICKLED: Final = ("text_encoder", "vae")


def publish(model: Path, folder: Path) -> Path:
    """Makes `folder` of the pipeline folder `model`, whose weights are whole files in single precision."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder, dirs_exist_ok=True)
    whole: dict[str, Any] = {}
    for name, file in _weights(model):
        tensors = load_file(file)
        whole |= {f"{name}.{key}": value for key, value in tensors.items()}
        half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
        stem, target = file.stem, folder / name
        if name in SHARDED:
            (target / file.name).unlink()
            _shard(tensors, target, stem, "")
            _shard(half, target, stem, f".{VARIANT}")
        else:
            save_file(half, target / f"{stem}.{VARIANT}.safetensors", {"format": "pt"})
        if name in PICKLED:
            torch.save(tensors, target / f"{'pytorch_model' if stem == 'model' else stem}.bin")
            torch.save(half, target / f"{'pytorch_model' if stem == 'model' else stem}.{VARIANT}.bin")
    save_file(whole, folder / "whole.safetensors")
    save_file({name: value.half() for name, value in whole.items()}, folder / "whole_fp16.safetensors")
    (folder / "text_encoders").mkdir()
    encoders = {name: value for name, value in whole.items() if name.startswith("text_encoder")}
    save_file(encoders, folder / "text_encoders" / "model.safetensors")
    (folder / "text_encoder" / "flax_model.msgpack").write_bytes(bytes(100_000))
    (folder / "text_encoder" / "model.onnx").write_bytes(bytes(100_000))
    (folder / "README.md").write_text("# A model\n")
    (folder / "picture.png").write_bytes(bytes(50_000))
    return folder


def _weights(model: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(model.glob("*/*.safetensors")):
        yield file.parent.name, file


def _shard(tensors: Mapping[str, Any], folder: Path, stem: str, variant: str) -> None:
    """Two files and the index that says which tensor is in which."""
    from safetensors.torch import save_file

    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(halves, 1):
        file = f"{stem}{variant}-{number:05d}-of-{len(halves):05d}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    # transformers and diffusers both put the variant in front of `.index`'s own suffix, as here, behind the stem.
    (folder / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))
