"""How people's model folders differ from what `save_pretrained` writes, each as a change of one that it wrote.

`SAME`: the folder makes the picture that it made before. `SERVED`: another, since its numbers are others. Otherwise the
outcome is what the refusal must say: which object, which file, what to do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

SAME: Final = "the same picture"
SERVED: Final = "a picture"

NET: Final = "diffusion_pytorch_model"
POINTER: Final = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 573014\n"
METADATA: Final = {"format": "pt"}


@dataclass(frozen=True)
class Quirk:
    name: str
    change: Callable[[Path], Path | None]
    """Changes the folder; returns where it is then, if that is another."""
    outcome: str
    options: Mapping[str, Any] = field(default_factory=dict)


QUIRKS: Final[list[Quirk]] = []


def quirk(name: str, outcome: str, **options: Any) -> Callable[[Any], Any]:
    def note(change: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        QUIRKS.append(Quirk(name, change, outcome, options))
        return change

    return note


def edit(file: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None takes a key away only if it is not there."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(folder: Path, component: str) -> Path:
    return next((folder / component).glob("*.safetensors"))


def as_bin(folder: Path, component: str) -> None:
    file = weights(folder, component)
    torch.save(load_file(file), file.with_name(f"{NET}.bin" if file.stem == NET else "pytorch_model.bin"))


def variant(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor) -> None:
    """The weights of all components once more, as a variant."""
    for component in ("text_encoder", "text_encoder_2", "transformer", "vae"):
        file = weights(folder, component)
        tensors = {key: change(value).contiguous() for key, value in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.{name}.safetensors"), METADATA)


def without_plain(folder: Path) -> None:
    for file in folder.glob("*/*.safetensors"):
        if file.name.count(".") == 1:
            file.unlink()


def shard(folder: Path, component: str) -> tuple[Path, Path]:
    """The component's weights in two files and an index. Returns the files."""
    file = weights(folder, component)
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [file.with_name(f"{file.stem}-0000{number}-of-00002.safetensors") for number in (1, 2)]
    where: dict[str, str] = {}
    for part, target in zip(parts, files, strict=True):
        save_file({name: tensors[name] for name in part}, target, METADATA)
        where |= dict.fromkeys(part, target.name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    file.with_name(f"{file.stem}.safetensors.index.json").write_text(json.dumps(index))
    return files[0], files[1]


def components(folder: Path) -> Iterator[str]:
    yield from ("text_encoder", "text_encoder_2", "transformer", "vae")


# The index


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


# Where the folder lies


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


@quirk("a file in its place", r"is a file, and a model is a folder.*`dpipe convert .*safetensors DIRECTORY`")
def _(folder: Path) -> Path:
    return weights(folder, "transformer")


@quirk(
    "only one file of all weights",
    r"none of model_index\.json.*v1-5-pruned-emaonly\.safetensors may hold a whole model.*`dpipe convert .* DIRECTORY`",
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


# Configs


@quirk("no config of a component", r"vae: .*config\.json")
def _(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()


@quirk("a config of nothing", r"vae.config\.json: is empty")
def _(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text("")


@quirk("an encoder's config of nothing", r"text_encoder.config\.json: is empty")
def _(folder: Path) -> None:
    (folder / "text_encoder" / "config.json").write_text("")


@quirk("a config that Git LFS left a pointer of", r"transformer.config\.json: is a pointer of Git LFS")
def _(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text(POINTER)


@quirk("configs with a byte order mark", r"config\.json: begins with a byte order mark")
def _(folder: Path) -> None:
    for component in components(folder):
        file = folder / component / "config.json"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


@quirk("keys of a config that this version does not know", SAME)
def _(folder: Path) -> None:
    for component in components(folder):
        edit(folder / component / "config.json", of_tomorrow=True, _name_or_path="/home/maker/x")


@quirk("a scale of latents that is null", r"vae.config\.json: scaling_factor: is null")
def _(folder: Path) -> None:
    edit(folder / "vae" / "config.json", scaling_factor=None)


@quirk("a scheduler without a config", r"scheduler: .*scheduler_config\.json")
def _(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()


@quirk("a scheduler of nothing", r"scheduler.scheduler_config\.json: is empty")
def _(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text("")


@quirk("a quantisation whose package is not there", r"transformer: .*bitsandbytes")
def _(folder: Path) -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit(folder / "transformer" / "config.json", quantization_config=quantised)


@quirk("an encoder's quantisation whose package is not there", r"text_encoder_2: .*bitsandbytes")
def _(folder: Path) -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    edit(folder / "text_encoder_2" / "config.json", quantization_config=quantised)


# Tokenizers


@quirk("a tokenizer in the form of older versions", SAME)
def _(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


@quirk("a tokenizer in the form of newer versions", SAME)
def _(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "tokenizer" / "merges.txt").unlink()


@quirk("a tokenizer by the name of its fast class", SAME)
def _(folder: Path) -> None:
    edit(folder / "model_index.json", tokenizer_2=["transformers", "T5TokenizerFast"])
    edit(folder / "tokenizer_2" / "tokenizer_config.json", tokenizer_class="T5TokenizerFast")


@quirk("a tokenizer without words", r"tokenizer_2: T5Tokenizer has no vocabulary here.*tokenizer\.json")
def _(folder: Path) -> None:
    (folder / "tokenizer_2" / "tokenizer.json").unlink()


@quirk("a tokenizer of broken words", r"tokenizer_2: T5Tokenizer can't be loaded")
def _(folder: Path) -> None:
    (folder / "tokenizer_2" / "tokenizer.json").write_text('{"version": "1.0"')


# Weights: which files


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


# Weights: what is in them


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
