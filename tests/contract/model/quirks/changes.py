"""What a quirk of a model folder is, and the changes that several are made of.

`SAME`: the folder makes the picture that it made before. `SERVED`: another, since its numbers are others. Otherwise the
outcome is what the refusal must say: which object, which file, what to do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer

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


class Quirks(list[Quirk]):
    """Those of one kind, in the order of their making."""

    def quirk(self, name: str, outcome: str, **options: Any) -> Callable[[Any], Any]:
        """Names a change of a folder, and what becomes of it then."""

        def note(change: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
            self.append(Quirk(name, change, outcome, options))
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


def spiece_model() -> bytes:
    """A SentencePiece vocabulary with T5's special tokens."""
    made = io.BytesIO()
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"a red {first} and a blue {second}" for first in digits for second in digits]),
        model_writer=made,
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return made.getvalue()
