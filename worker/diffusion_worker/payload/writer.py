"""Values -> payload. `measure` plans without touching tensor bytes; `write` copies each tensor once, into the slot.

A slot may be written by others at any time, so the digest is taken of what is written and not of what is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import xxhash
from PIL import Image

from diffusion_worker.digest import Bytes, copy
from diffusion_worker.payload.errors import Limits, PayloadError
from diffusion_worker.payload.layout import (
    IMAGE_BITS,
    MAGIC,
    NUMPY_DTYPES,
    PREFIX,
    TORCH_NAMES,
    VERSION,
    Entry,
    check_entry,
    image_bytes,
    offsets,
)

Source: TypeAlias = torch.Tensor | np.ndarray[Any, Any] | Image.Image

# Element types of one width, as which tensors are copied: a copy must keep the bits of every type, NaNs included.
_CARRIERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


@dataclass(frozen=True)
class Plan:
    """What `write` will do. Holds references to the tensors, which must not change until then."""

    header: bytes
    table: tuple[Entry, ...]
    sources: tuple[Source, ...]
    offsets: tuple[int, ...]
    nbytes: int


def measure(values: Mapping[str, object], limits: Limits | None = None) -> Plan:
    """Lay out `values`, without copying any tensor.

    Carried: tensors (any device; strides and `requires_grad` are not kept), numpy arrays and scalars, PIL images
    (pixels only), list, tuple, torch.Size, dict with string keys, int (64 bits), float, str, bool, None, torch.dtype,
    torch.device and CPU torch.Generator. One object in two places stays one object.
    Raises PayloadError, which names the place, for anything else.
    """
    tree = _Tree(limits or Limits())
    root = tree.node(dict(values), "values", 0)
    header = json.dumps(
        {"tree": root, "tensors": [[entry.dtype, entry.shape] for entry in tree.table]}, separators=(",", ":")
    ).encode("ascii")
    if len(header) > tree.limits.header_bytes:
        raise PayloadError(f"values: header of {len(header)} bytes, at most {tree.limits.header_bytes} are allowed")
    starts, total = offsets(len(header), tree.table)
    if total > tree.limits.total_bytes:
        raise PayloadError(f"values: {total} bytes, at most {tree.limits.total_bytes} are allowed")
    return Plan(header, tuple(tree.table), tuple(tree.sources), tuple(starts), total)


def write(plan: Plan, out: memoryview) -> int:
    """Write the payload to the first `plan.nbytes` of `out`, a writable view of bytes (a slot's payload).

    Returns the xxh3-64 of what it wrote; nothing is read back.
    """
    if out.readonly or out.nbytes < plan.nbytes:
        raise PayloadError(f"out: {out.nbytes} bytes, {plan.nbytes} writable bytes are needed")
    target = np.frombuffer(out, np.uint8)
    digest = xxhash.xxh3_64()
    end = 0
    for start, part in _parts(plan):
        end = start + part.nbytes
        copy(part, target[start:end], digest, private=part)
    assert end == plan.nbytes, f"{end} bytes were written of {plan.nbytes}"
    return digest.intdigest()


def _parts(plan: Plan) -> Iterator[tuple[int, Bytes]]:
    """All that is written, gapless and in order, with where it begins."""
    head = PREFIX.pack(MAGIC, VERSION, len(plan.header), plan.nbytes) + plan.header
    yield 0, np.frombuffer(head, np.uint8)
    end = len(head)
    for entry, source, start in zip(plan.table, plan.sources, plan.offsets, strict=True):
        yield end, np.zeros(start - end, np.uint8)
        yield start, _bytes(source)
        end = start + entry.nbytes


def _bytes(source: Source) -> Bytes:
    """Its own where it is dense and in the host's memory, else a copy's."""
    if isinstance(source, torch.Tensor):
        carrier = _CARRIERS[source.dtype.itemsize]
        dense = source.detach().resolve_conj().resolve_neg().view(carrier).cpu().contiguous()
        return dense.view(-1).numpy().view(np.uint8)
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source).reshape(-1).view(np.uint8)
    return np.frombuffer(source.tobytes(), np.uint8)


@dataclass
class _Tree:
    """Walks the values once and collects the table. Objects met again refer to their first row."""

    limits: Limits
    table: list[Entry] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)
    nodes: int = 0

    def node(self, value: object, place: str, depth: int) -> object:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            raise PayloadError(f"{place}: more than {self.limits.nodes} values")
        if depth > self.limits.depth:
            raise PayloadError(f"{place}: nested deeper than {self.limits.depth}")
        match value:
            case None | bool():
                return value
            case torch.Tensor():
                return {"tensor": self.row(value, place)}
            case torch.dtype():
                return {"dtype": self.dtype_name(value, place)}
            case torch.device():
                return {"device": str(value)}
            case torch.Generator():
                return {"generator": self.row(value, place)}
            case torch.Size():
                return {"size": list(value)}
            case np.ndarray():
                return {"array": self.row(value, place)}
            case np.generic():
                return {"scalar": self.row(value, place)}
            case Image.Image():
                return {"image": [self.row(value, place), value.mode, list(value.size)]}
        return self.plain(value, place, depth)

    def plain(self, value: object, place: str, depth: int) -> object:
        """Only the very types: a subclass would come back as something else than it was."""
        kind = type(value)
        if kind is str:
            return value
        if kind is int and isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 64:
                raise PayloadError(f"{place}: an int that does not fit 64 bits")
            return value
        if kind is float and isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list and isinstance(value, list):
            return {"list": [self.node(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]}
        if kind is tuple and isinstance(value, tuple):
            return {"tuple": [self.node(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]}
        if kind is dict and isinstance(value, dict):
            for key in value:
                if type(key) is not str:
                    raise PayloadError(f"{place}: key {key!r} is not a string")
            return {"dict": [[key, self.node(item, f"{place}.{key}", depth + 1)] for key, item in value.items()]}
        raise PayloadError(f"{place}: a {kind.__module__}.{kind.__qualname__} can't be carried between stages")

    def row(self, value: object, place: str) -> int:
        """The table row of a tensor-like object."""
        if (known := self.rows.get(id(value))) is not None:
            return known
        entry, source = self.describe(value, place)
        check_entry(entry, self.limits, place)
        if len(self.table) >= self.limits.tensors:
            raise PayloadError(f"{place}: more than {self.limits.tensors} tensors")
        self.rows[id(value)] = len(self.table)
        self.kept.append(value)  # an id is only unique among objects that are alive
        self.table.append(entry)
        self.sources.append(source)
        return len(self.table) - 1

    def describe(self, value: object, place: str) -> tuple[Entry, Source]:
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
                raise PayloadError(f"{place}: only dense tensors that have data can be carried")
            return Entry(self.dtype_name(value.dtype, place), tuple(value.shape)), value
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype != NUMPY_DTYPES.get(value.dtype.name):
                raise PayloadError(f"{place}: numpy's {value.dtype!r} can't be carried; use a native number type")
            array = np.asarray(value)
            return Entry(array.dtype.name, array.shape), array
        if isinstance(value, torch.Generator):
            if value.device.type != "cpu":
                raise PayloadError(f"{place}: a generator on {value.device}; only CPU generators can be carried")
            state = value.get_state()
            return Entry("uint8", tuple(state.shape)), state
        if isinstance(value, Image.Image):
            if value.mode not in IMAGE_BITS:
                raise PayloadError(f"{place}: an image of mode {value.mode}; convert it to RGB or RGBA first")
            return Entry("uint8", (image_bytes(value.mode, value.size),)), value
        raise PayloadError(f"{place}: not tensor-like")

    @staticmethod
    def dtype_name(dtype: torch.dtype, place: str) -> str:
        if dtype not in TORCH_NAMES:
            raise PayloadError(f"{place}: element type {dtype} can't be carried")
        return TORCH_NAMES[dtype]
