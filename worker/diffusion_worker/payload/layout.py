"""Where the parts of a payload lie, and the names of the element types that it carries.

    offset 0    magic "DPAYLD" + version (2 bytes, little-endian)
           8    length of the header in bytes (8 bytes, little-endian)
          16    total length of the payload in bytes (8 bytes, little-endian)
          24    header: JSON, ASCII
         ...    zeros up to a multiple of 256, then the tensors in table order, each on a multiple of 256

Offsets are not written down: both ends compute them from the table, so tensors can neither overlap nor lie outside.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from diffusion_worker.payload.errors import Limits, PayloadError

VERSION: Final = 1
PREFIX: Final = struct.Struct("<6sHQQ")
MAGIC: Final = b"DPAYLD"
ALIGNMENT: Final = 256

# Element types by name: those that numpy and torch share, and those that torch alone has.
_SHARED: Final = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_TORCH_ONLY: Final = (
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "complex32",
)

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    name: getattr(torch, name) for name in _SHARED + _TORCH_ONLY if hasattr(torch, name)
}
TORCH_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
NUMPY_DTYPES: Final[dict[str, np.dtype[np.generic]]] = {name: np.dtype(name) for name in _SHARED}
ITEM_SIZES: Final[dict[str, int]] = {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()}

# Bits of one pixel of Pillow's raw form. Palettes are left out: their meaning lies outside the pixels.
IMAGE_BITS: Final[dict[str, int]] = {
    "1": 1,
    "L": 8,
    "LA": 16,
    "RGB": 24,
    "RGBA": 32,
    "CMYK": 32,
    "YCbCr": 24,
    "LAB": 24,
    "HSV": 24,
    "I": 32,
    "F": 32,
    "I;16": 16,
}


@dataclass(frozen=True)
class Entry:
    """One row of the tensor table: an element type by name, and a shape in elements."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return ITEM_SIZES[self.dtype] * math.prod(self.shape)


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def offsets(header_bytes: int, table: Iterable[Entry]) -> tuple[list[int], int]:
    """The offset in bytes of each tensor, and the payload's total length."""
    end = PREFIX.size + header_bytes
    starts = []
    for entry in table:
        start = aligned(end)
        starts.append(start)
        end = start + entry.nbytes
    return starts, end


def image_bytes(mode: str, size: Sequence[int]) -> int:
    """Length in bytes of an image's raw form: rows are padded to whole bytes."""
    width, height = size
    return -(-width * IMAGE_BITS[mode] // 8) * height


def check_entry(entry: Entry, limits: Limits, place: str) -> None:
    """Refuse shapes that no allocator should be asked for, also those whose product is zero."""
    if len(entry.shape) > limits.dimensions:
        raise PayloadError(f"{place}: {len(entry.shape)} dimensions, at most {limits.dimensions} are allowed")
    extent = ITEM_SIZES[entry.dtype] * math.prod(side for side in entry.shape if side)
    if extent > limits.total_bytes:
        raise PayloadError(f"{place}: shape {list(entry.shape)} of {entry.dtype} exceeds {limits.total_bytes} bytes")
