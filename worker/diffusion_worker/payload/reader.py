"""Payload -> values. The bytes come from another machine: each claim is checked before anything is allocated for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from diffusion_worker.payload.errors import Limits, PayloadError
from diffusion_worker.payload.layout import (
    IMAGE_BITS,
    ITEM_SIZES,
    MAGIC,
    NUMPY_DTYPES,
    PREFIX,
    TORCH_DTYPES,
    VERSION,
    Entry,
    check_entry,
    image_bytes,
    offsets,
)

_DEVICE: Final = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

# torch's Mersenne Twister, in its 5056 bytes of state: the next word is at `next`, and `left` - 1 more may be taken.
_MERSENNE_WORDS: Final = 624
_MERSENNE_LEFT: Final = slice(8, 12)
_MERSENNE_NEXT: Final = slice(16, 24)


def read(data: memoryview, limits: Limits | None = None, *, keep: bool = False) -> dict[str, object]:
    """The values in `data`, a view of bytes that begins with a payload and may be longer.

    Tensors are copied out, and `data` may be reused afterwards. With `keep` they are made of `data` itself, which must
    be writable and theirs alone; it lives as long as one of them does. Raises PayloadError for anything that is not a
    payload within `limits`.
    """
    limits = limits or Limits()
    view = data.cast("B") if data.format != "B" or data.ndim != 1 else data
    header, header_bytes, total = _header(view, limits)
    if not isinstance(header, dict) or set(header) != {"tree", "tensors"}:
        raise PayloadError("header: not an object with tree and tensors")
    table = _table(header["tensors"], limits)
    starts, end = offsets(header_bytes, table)
    if end != total:
        raise PayloadError(f"header: its tensors end at {end}, the payload at {total}")
    rows = [
        np.frombuffer(view[start : start + entry.nbytes], np.uint8) for entry, start in zip(table, starts, strict=True)
    ]
    values = _Values(limits, table, rows, keep).node(header["tree"], "values", 0)
    if not isinstance(values, dict):
        raise PayloadError("values: not a dict")
    return values


def _header(view: memoryview, limits: Limits) -> tuple[object, int, int]:
    if view.nbytes < PREFIX.size:
        raise PayloadError(f"payload: {view.nbytes} bytes, at least {PREFIX.size} are needed")
    magic, version, header_bytes, total = PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise PayloadError("payload: does not begin with a payload's magic")
    if version != VERSION:
        raise PayloadError(f"payload: version {version}, this worker reads {VERSION}")
    if header_bytes > limits.header_bytes:
        raise PayloadError(f"header: {header_bytes} bytes, at most {limits.header_bytes} are allowed")
    if total > min(view.nbytes, limits.total_bytes):
        raise PayloadError(f"payload: claims {total} bytes of {view.nbytes}, at most {limits.total_bytes} are allowed")
    if PREFIX.size + header_bytes > total:
        raise PayloadError(f"header: {header_bytes} bytes do not fit a payload of {total}")
    try:
        text = bytes(view[PREFIX.size : PREFIX.size + header_bytes]).decode("ascii")
        # RecursionError: nesting beyond the interpreter's own bound, found before ours can be.
        return json.loads(text, parse_constant=_refuse_constant), header_bytes, total
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"header: not JSON ({type(error).__name__})") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _table(raw: object, limits: Limits) -> list[Entry]:
    if not isinstance(raw, list) or len(raw) > limits.tensors:
        raise PayloadError(f"tensors: not a list of at most {limits.tensors}")
    table = []
    for index, row in enumerate(raw):
        place = f"tensors[{index}]"
        match row:
            case [str(dtype), list(shape)] if dtype in ITEM_SIZES and all(_is_size(side) for side in shape):
                entry = Entry(dtype, tuple(shape))
            case _:
                raise PayloadError(f"{place}: not a known element type and a shape")
        check_entry(entry, limits, place)
        table.append(entry)
    return table


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


@dataclass
class _Values:
    """Rebuilds the tree. Each row of the table becomes at most one object of a kind, however often it is named."""

    limits: Limits
    table: list[Entry]
    rows: list[np.ndarray[Any, np.dtype[np.uint8]]]
    keep: bool
    made: dict[tuple[str, int], object] = field(default_factory=dict)
    nodes: int = 0

    def node(self, raw: object, place: str, depth: int) -> object:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            raise PayloadError(f"{place}: more than {self.limits.nodes} values")
        if depth > self.limits.depth:
            raise PayloadError(f"{place}: nested deeper than {self.limits.depth}")
        match raw:
            case None | bool() | float() | str():
                return raw
            case int() if -(1 << 63) <= raw < 1 << 64:
                return raw
            case {"list": list(items), **rest} if not rest:
                return [self.node(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(items)]
            case {"tuple": list(items), **rest} if not rest:
                return tuple(self.node(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(items))
            case {"dict": list(items), **rest} if not rest:
                return self.mapping(items, place, depth)
            case {"float": str(name), **rest} if not rest and name in _FLOATS:
                return _FLOATS[name]
            case {"dtype": str(name), **rest} if not rest and name in TORCH_DTYPES:
                return TORCH_DTYPES[name]
            case {"device": str(name), **rest} if not rest and _DEVICE.fullmatch(name):
                return _torch_device(name, place)
            case {"size": list(sides), **rest} if not rest and len(sides) <= self.limits.dimensions:
                if all(_is_size(side) for side in sides):
                    return torch.Size(sides)
            case {"tensor": int(row), **rest} if not rest:
                return self.once("tensor", row, place, self.tensor)
            case {"array": int(row), **rest} if not rest:
                return self.once("array", row, place, self.array)
            case {"scalar": int(row), **rest} if not rest:
                return self.once("scalar", row, place, self.scalar)
            case {"generator": int(row), **rest} if not rest:
                return self.once("generator", row, place, self.generator)
            case {"image": [int(row), str(mode), [int(width), int(height)]], **rest} if not rest:
                return self.once(f"image {mode} {width} {height}", row, place, _Picture(self, mode, width, height))
        raise PayloadError(f"{place}: not a value that a payload carries")

    def mapping(self, items: list[object], place: str, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for item in items:
            match item:
                case [str(key), value] if key not in result:
                    result[key] = self.node(value, f"{place}.{key}"[:200], depth + 1)
                case _:
                    raise PayloadError(f"{place}: not pairs of a key, used once, and a value")
        return result

    def once(self, kind: str, row: int, place: str, make: Callable[[int, str], object]) -> object:
        if isinstance(row, bool) or not 0 <= row < len(self.table):
            raise PayloadError(f"{place}: no tensor {row} in a table of {len(self.table)}")
        if (kind, row) not in self.made:
            # Each row is copied once only: bytes stay within what the payload states.
            if any(other == row for _, other in self.made):
                raise PayloadError(f"{place}: tensor {row} is named as two kinds of value")
            self.made[kind, row] = make(row, place)
        return self.made[kind, row]

    def tensor(self, row: int, place: str) -> torch.Tensor:
        entry, dtype = self.table[row], TORCH_DTYPES[self.table[row].dtype]
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=dtype)
        self.check_bool(row, place)
        if self.keep:
            flat = torch.from_numpy(self.rows[row])
        else:
            flat = torch.empty(entry.nbytes, dtype=torch.uint8)
            np.copyto(flat.numpy(), self.rows[row])
        return flat.view(dtype).view(entry.shape)

    def array(self, row: int, place: str) -> np.ndarray[Any, Any]:
        entry = self.table[row]
        if entry.dtype not in NUMPY_DTYPES:
            raise PayloadError(f"{place}: numpy has no {entry.dtype}")
        self.check_bool(row, place)
        bytes_ = self.rows[row] if self.keep else self.rows[row].copy()
        return bytes_.view(NUMPY_DTYPES[entry.dtype]).reshape(entry.shape)

    def scalar(self, row: int, place: str) -> object:
        if self.table[row].shape:
            raise PayloadError(f"{place}: a scalar has no shape")
        return self.array(row, place)[()]

    def generator(self, row: int, place: str) -> torch.Generator:
        entry, state = self.table[row], self.rows[row]
        generator = torch.Generator()
        if entry.dtype != "uint8" or entry.shape != tuple(generator.get_state().shape):
            raise PayloadError(f"{place}: not the state of a CPU generator")
        left = int.from_bytes(state[_MERSENNE_LEFT].tobytes(), "little", signed=True)
        following = int.from_bytes(state[_MERSENNE_NEXT].tobytes(), "little")
        # torch checks the two apart, and would read past its state for a pair that no seeding makes.
        if not 1 <= left <= _MERSENNE_WORDS or following + left > _MERSENNE_WORDS + 1:
            raise PayloadError(f"{place}: not a state that a generator can have")
        try:
            generator.set_state(torch.from_numpy(state.copy()))
        except RuntimeError as error:
            raise PayloadError(f"{place}: not a state that a generator can have") from error
        return generator

    def check_bool(self, row: int, place: str) -> None:
        """Any other byte in a bool array is undefined behaviour in the libraries below."""
        if self.table[row].dtype == "bool" and self.rows[row].size and self.rows[row].max() > 1:
            raise PayloadError(f"{place}: a bool that is neither 0 nor 1")


@dataclass(frozen=True)
class _Picture:
    values: _Values
    mode: str
    width: int
    height: int

    def __call__(self, row: int, place: str) -> Image.Image:
        entry, size = self.values.table[row], (self.width, self.height)
        if self.mode not in IMAGE_BITS or not all(0 <= side < 1 << 20 for side in size):
            raise PayloadError(f"{place}: not an image's mode and size")
        if entry.dtype != "uint8" or entry.shape != (image_bytes(self.mode, size),):
            raise PayloadError(
                f"{place}: {entry.nbytes} bytes are not {self.width}x{self.height} pixels of {self.mode}"
            )
        if not entry.nbytes:
            return Image.new(self.mode, size)
        return Image.frombytes(self.mode, size, self.values.rows[row].tobytes())


def _torch_device(name: str, place: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise PayloadError(f"{place}: no such device") from error
