"""Quirks of components' configs and of tokenizers."""

from __future__ import annotations

from pathlib import Path

from .changes import (
    POINTER,
    SAME,
    SERVED,
    Quirks,
    components,
    edit,
    spiece_model,
)

QUIRKS = Quirks()
quirk = QUIRKS.quirk


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


@quirk("a tokenizer in the form of older versions", SAME)
def _(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


@quirk("a tokenizer in the form of newer versions", SAME)
def _(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "tokenizer" / "merges.txt").unlink()


@quirk("a vocabulary of SentencePiece alone, as CogVideoX and PixArt have it", SERVED)
def _(folder: Path) -> None:
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    (folder / "tokenizer_2" / "spiece.model").write_bytes(spiece_model())


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
