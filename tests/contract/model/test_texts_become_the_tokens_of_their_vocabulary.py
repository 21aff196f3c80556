"""What a tokenizer makes of a text is what the vocabulary's own library makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from diffusion_worker.model.folder import load_component, open_folder

from .quirks.changes import spiece_model


@pytest.mark.parametrize("text", ["a red seven", "a blue nine and a red two", "  a  red\tone ", "ünknown"])
def test_a_vocabulary_of_sentencepiece_alone_is_read_as_sentencepiece_reads_it(
    digits: Path, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    file = folder / "tokenizer_2" / "spiece.model"
    file.write_bytes(spiece_model())

    tokenizer = load_component(
        open_folder(folder), "tokenizer_2", dtype=torch.float32, device="cpu", allow_pickle=False
    )

    assert tokenizer(text)["input_ids"] == [*SentencePieceProcessor(model_file=str(file)).encode(text), 1]
