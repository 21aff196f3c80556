"""Quirks of which files hold the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from .changes import (
    NET,
    SAME,
    Quirks,
    as_bin,
    components,
    shard,
    variant,
    weights,
    without_plain,
)

QUIRKS = Quirks()
quirk = QUIRKS.quirk


@quirk("weights for other programs", SAME)
def _(folder: Path) -> None:
    for name in ("flax_model.msgpack", "tf_model.h5", "model.onnx", "openvino_model.bin", "rust_model.ot"):
        (folder / "text_encoder" / name).write_bytes(b"other")


@quirk("checkpoints of the whole in its root", SAME)
def _(folder: Path) -> None:
    shutil.copy(weights(folder, "transformer"), folder / "v1-5-pruned-emaonly.safetensors")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"pickle")


@quirk("pickles alone", r"vae: its weights are only in \.bin, a pickle.*model\.allowPickle")
def _(folder: Path) -> None:
    as_bin(folder, "vae")
    weights(folder, "vae").unlink()


@quirk("pickles alone, allowed", SAME, allow_pickle=True)
def _(folder: Path) -> None:
    for component in components(folder):
        as_bin(folder, component)
        weights(folder, component).unlink()


@quirk("pickles beside safetensors", SAME, allow_pickle=True)
def _(folder: Path) -> None:
    (folder / "vae" / f"{NET}.bin").write_bytes(b"not even a pickle")


@quirk("a pickle that is none", r"vae: AutoencoderKL can't be loaded", allow_pickle=True)
def _(folder: Path) -> None:
    (folder / "vae" / f"{NET}.bin").write_bytes(b"not even a pickle")
    weights(folder, "vae").unlink()


@quirk("no weights", r"vae: it has no weights by a name")
def _(folder: Path) -> None:
    weights(folder, "vae").unlink()


@quirk("weights by another name", r"vae: it has no weights.*its files are: .*flux-vae\.safetensors")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    file.rename(file.with_name("flux-vae.safetensors"))


@quirk("one variant and no other", SAME)
def _(folder: Path) -> None:
    variant(folder, "fp16")
    without_plain(folder)


@quirk("a variant that is asked for", SAME, variant="fp16")
def _(folder: Path) -> None:
    variant(folder, "fp16")
    for component in components(folder):
        (folder / component / f"{'model' if 'text' in component else NET}.safetensors").write_bytes(b"other")


@quirk("two variants and none asked for", r"its weights are there as ema and fp16.*model\.variant")
def _(folder: Path) -> None:
    variant(folder, "fp16")
    variant(folder, "ema")
    without_plain(folder)


@quirk("two variants and one asked for", SAME, variant="ema")
def _(folder: Path) -> None:
    variant(folder, "ema")
    variant(folder, "fp16", torch.zeros_like)
    without_plain(folder)


@quirk("weights that were not averaged, beside those that were", SAME)
def _(folder: Path) -> None:
    variant(folder, "non_ema", torch.zeros_like)


@quirk("weights in pieces", SAME)
def _(folder: Path) -> None:
    for component in components(folder):
        shard(folder, component)


@quirk("a piece that is missing", r"transformer: .*piece 2 of 2")
def _(folder: Path) -> None:
    shard(folder, "transformer")[1].unlink()


@quirk("an encoder's piece that is missing", r"text_encoder_2: .*piece 1 of 2")
def _(folder: Path) -> None:
    shard(folder, "text_encoder_2")[0].unlink()


@quirk("pieces without their index", r"transformer: .*\.index\.json")
def _(folder: Path) -> None:
    shard(folder, "transformer")
    next((folder / "transformer").glob("*.index.json")).unlink()
