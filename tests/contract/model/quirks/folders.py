"""Quirks of a folder's index, and of where the folder lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .changes import (
    NET,
    POINTER,
    SAME,
    Quirks,
    edit,
    weights,
)

QUIRKS = Quirks()
quirk = QUIRKS.quirk


@quirk("unchanged", SAME)
def _(folder: Path) -> None:
    pass


@quirk("keys of an index that only its maker knows", SAME)
def _(folder: Path) -> None:
    edit(folder / "model_index.json", _name_or_path="/home/maker/flux", _diffusers_version="0.99.0.dev0")


@quirk("an index with a byte order mark", r"model_index\.json: begins with a byte order mark.*save it without")
def _(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())


@quirk("an index of nothing", r"model_index\.json: is empty")
def _(folder: Path) -> None:
    (folder / "model_index.json").write_text("")


@quirk("an index that was cut off", r"model_index\.json: can't be read as JSON")
def _(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text()[:100])


@quirk("an index that is a list", r"model_index\.json: must hold a JSON object")
def _(folder: Path) -> None:
    (folder / "model_index.json").write_text("[]")


@quirk("an index that Git LFS left a pointer of", r"model_index\.json: is a pointer of Git LFS.*git lfs pull")
def _(folder: Path) -> None:
    (folder / "model_index.json").write_text(POINTER)


@quirk("no index", r"not a diffusers pipeline folder: it has none of model_index\.json")
def _(folder: Path) -> None:
    (folder / "model_index.json").unlink()


@quirk(
    "a pipeline class that diffusers does not have",
    r"names no pipeline \(_class_name\) that diffusers \S+ has, but 'FluxDreamPipeline'",
)
def _(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="FluxDreamPipeline")


@quirk("no pipeline class", r"names no pipeline \(_class_name\) .* but 'nothing'")
def _(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name=None)


@quirk("a component class that diffusers does not have", "component transformer: diffusers has no class FluxDream")
def _(folder: Path) -> None:
    edit(folder / "model_index.json", transformer=["diffusers", "FluxDream"])


@quirk("a component of code of its own", "component transformer is of library 'flux_dream', which is code of")
def _(folder: Path) -> None:
    (folder / "transformer" / "flux_dream.py").write_text("raise SystemExit('run')")
    edit(folder / "model_index.json", transformer=["flux_dream", "FluxDream"])


@quirk("a component that the index names and the folder lacks", r"names vae \(diffusers AutoencoderKL\), but it has no")
def _(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


@quirk("an old name of a class, which diffusers knows", SAME)
def _(folder: Path) -> None:
    from transformers import CLIPImageProcessor

    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    edit(folder / "model_index.json", feature_extractor=["transformers", "CLIPFeatureExtractor"])


@quirk("defaults of requests that are no scalars", r"generation_defaults\.json: height: must be a number")
def _(folder: Path) -> None:
    edit(folder / "generation_defaults.json", height=[64])


@quirk("defaults with a byte order mark", r"generation_defaults\.json: begins with a byte order mark")
def _(folder: Path) -> None:
    file = folder / "generation_defaults.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


@quirk("spaces and letters of other scripts in its path", SAME)
def _(folder: Path) -> Path:
    return folder.rename(folder.with_name("Modèle  №7 (1)"))


@quirk("a link to it", SAME)
def _(folder: Path) -> Path:
    link = folder.with_name("link")
    link.symlink_to(folder)
    return link


@quirk("a hub's cache, where each file is a link", SAME)
def _(folder: Path) -> None:
    blobs = folder.with_name("blobs")
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.rglob("*.*"))):
        if file.is_file():
            blob = file.rename(blobs / str(number))
            file.symlink_to(os.path.relpath(blob, file.parent))


@quirk("weights whose link leads nowhere", r"vae.diffusion_pytorch_model\.safetensors: is a link to .*, which is not")
def _(folder: Path) -> None:
    file = weights(folder, "vae")
    file.unlink()
    file.symlink_to("../../blobs/7")


@quirk("what git and download tools leave", SAME)
def _(folder: Path) -> None:
    for place in (".git/objects", ".cache/huggingface/download"):
        (folder / place).mkdir(parents=True)
        (folder / place / "model.safetensors").write_bytes(b"half")
    (folder / "vae" / ".ipynb_checkpoints").mkdir()


@quirk("files that a download has not finished", SAME)
def _(folder: Path) -> None:
    (folder / "vae" / f"{NET}.safetensors.incomplete").write_bytes(b"half")


@quirk("a file in its place", r"is a file, and a model is a folder.*from_single_file")
def _(folder: Path) -> Path:
    return weights(folder, "transformer")


@quirk(
    "only one file of all weights",
    r"none of model_index\.json.*v1-5-pruned-emaonly\.safetensors may hold a whole model.*from_single_file",
)
def _(folder: Path) -> Path:
    alone = folder.with_name("alone")
    alone.mkdir()
    shutil.copy(weights(folder, "transformer"), alone / "v1-5-pruned-emaonly.safetensors")
    return alone


@quirk("a LoRA in its place", r"pytorch_lora_weights\.safetensors.*an adapter and no model")
def _(folder: Path) -> Path:
    alone = folder.with_name("alone")
    alone.mkdir()
    save_file({"transformer.x.lora_A.weight": torch.ones(4, 4)}, alone / "pytorch_lora_weights.safetensors")
    return alone
