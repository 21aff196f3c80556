"""Whether a model's files can be read at all, before a library tries: what it would say names neither file nor remedy.

Downloads break off, Git LFS leaves pointers, links lead nowhere, and pages that say no are saved under a file's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from diffusion_worker.model.types import UnsupportedModel

MAX_HEADER_BYTES: Final = 100_000_000
_POINTER: Final = b"version https://git-lfs.github.com/"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LENGTH_BYTES: Final = 8


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UnsupportedModel."""
    start = _start(file)
    if start.startswith(_BYTE_ORDER_MARK):
        raise UnsupportedModel(f"{file}: begins with a byte order mark, which no loader expects: save it without")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{file}: can't be read as JSON: {error}: get it again") from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{file}: must hold a JSON object")
    return content


def header(file: Path) -> bytes:
    """The JSON header of a safetensors file (8 bytes of length, then so many bytes). Raises UnsupportedModel."""
    start = _start(file)
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES or start[_LENGTH_BYTES : _LENGTH_BYTES + 1] not in (b"{", b""):
        raise UnsupportedModel(f"{file}: is no safetensors file: it begins with {start[:20]!r}; get it again")
    with file.open("rb") as stream:
        stream.seek(_LENGTH_BYTES)
        found = stream.read(length)
    if len(found) < length:
        raise _cut_off(file, _LENGTH_BYTES + length)
    return found


def check_weight_files(files: Iterable[Path]) -> None:
    """Raises UnsupportedModel for a safetensors file that is not whole, and for any that is not there."""
    for file in files:
        if file.suffix != ".safetensors":
            _start(file)
            continue
        head = header(file)
        try:
            ends = [entry["data_offsets"][1] for name, entry in json.loads(head).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UnsupportedModel(f"{file}: is no safetensors file: its header can't be read; get it again") from error
        whole = _LENGTH_BYTES + len(head) + max(ends, default=0)
        if file.stat().st_size < whole:
            raise _cut_off(file, whole)


def _start(file: Path) -> bytes:
    """The first bytes of a file that has some, and is not the pointer to one. Raises UnsupportedModel."""
    try:
        with file.open("rb") as stream:
            start = stream.read(200)
    except FileNotFoundError as error:
        if file.is_symlink():
            text = (
                f"{file}: is a link to {file.readlink()}, which is not there: copy the model with what its links name"
            )
            raise UnsupportedModel(text) from error
        raise UnsupportedModel(f"{file}: is not there") from error
    except OSError as error:
        raise UnsupportedModel(f"{file}: can't be read: {error.strerror}") from error
    if not start:
        raise UnsupportedModel(f"{file}: is empty: get it again")
    if start.startswith(_POINTER):
        raise UnsupportedModel(
            f"{file}: is a pointer of Git LFS and not the file: run `git lfs pull` in the repository"
        )
    return start


def _cut_off(file: Path, whole: int) -> UnsupportedModel:
    there = file.stat().st_size
    return UnsupportedModel(f"{file}: was cut off: {there} of at least {whole} bytes are there; get it again")
