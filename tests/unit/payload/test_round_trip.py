"""What goes into a payload comes out of it: types, bits, shapes and shared objects."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_worker.payload import Limits, PayloadError, measure, read, write

TORCH_DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    *(torch.complex64, torch.complex128),
]
NUMPY_DTYPES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128"
IMAGE_MODES = ["1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]


def packed(values: dict[str, Any]) -> bytes:
    plan = measure(values)
    out = bytearray(b"\xaa" * plan.nbytes)
    write(plan, memoryview(out))
    return bytes(out)


def round_trip(values: dict[str, Any]) -> dict[str, Any]:
    return read(memoryview(packed(values)))


def same(left: Any, right: Any) -> bool:
    """Equal in type and to the bit; of a single float's NaN, unlike a tensor's, neither sign nor payload is carried."""
    if type(left) is not type(right):
        return False
    match left:
        case torch.Tensor():
            return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
        case np.ndarray() | np.generic():
            return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        case torch.Generator():
            return torch.equal(left.get_state(), right.get_state())
        case Image.Image():
            return (left.mode, left.size, left.tobytes()) == (right.mode, right.size, right.tobytes())
        case list() | tuple():
            return len(left) == len(right) and all(map(same, left, right))
        case dict():
            return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
        case float():
            if math.isnan(left) or math.isnan(right):
                return math.isnan(left) and math.isnan(right)
            return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


def bits(tensor: torch.Tensor) -> bytes:
    dense = torch.empty(tensor.numel(), dtype=tensor.dtype)
    dense.view(tensor.shape).copy_(tensor)
    return dense.view(torch.uint8).numpy().tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any element type and bit pattern; 0-d, empty, transposed, strided and expanded."""
    dtype = draw(st.sampled_from(TORCH_DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8).copy()
    if dtype is torch.bool:
        raw &= 1
    tensor = torch.from_numpy(raw).view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)
    match draw(st.sampled_from(["plain", "transposed", "strided", "expanded"])):
        case "transposed" if tensor.ndim:
            return tensor.permute(*reversed(range(tensor.ndim)))
        case "strided" if tensor.ndim:
            return tensor[::2]
        case "expanded":
            return tensor.unsqueeze(0).expand(3, *shape)
    return tensor


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(NUMPY_DTYPES.split())))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8).copy()
    array = (raw & 1 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    return array[()] if not shape and draw(st.booleans()) else array.T


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    mode = draw(st.sampled_from(IMAGE_MODES))
    size = (draw(st.integers(1, 9)), draw(st.integers(1, 5)))
    count = len(Image.new(mode, size).tobytes())
    return Image.frombytes(mode, size, draw(st.binary(min_size=count, max_size=count)))


def generators(seed: int) -> torch.Generator:
    generator = torch.Generator().manual_seed(seed)
    torch.randn(seed % 700, generator=generator)
    return generator


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(),
    st.sampled_from(TORCH_DTYPES),
    st.sampled_from(["cpu", "cuda", "cuda:3", "meta"]).map(torch.device),
    st.lists(st.integers(0, 9), max_size=3).map(torch.Size),
    st.integers(0, 10_000).map(generators),
    tensors(),
    arrays(),
    images(),
)
trees = st.dictionaries(
    st.text(),
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(st.text(), inner, max_size=4),
        ),
        max_leaves=12,
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_any_tree_of_carried_types_comes_back_to_the_bit(values: dict[str, Any]) -> None:
    assert same(round_trip(values), values)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_element_type_keeps_every_bit_pattern(dtype: torch.dtype) -> None:
    raw = torch.arange(256, dtype=torch.uint8).repeat(16)
    tensor = raw.bitwise_and(1).to(torch.bool) if dtype is torch.bool else raw.view(dtype)
    assert same(round_trip({"t": tensor})["t"], tensor)


def test_conjugate_and_negative_views_carry_what_they_show() -> None:
    values = torch.randn(4, dtype=torch.complex64)
    read_back = round_trip({"conj": values.conj(), "neg": values.conj().imag})
    assert torch.equal(read_back["conj"], values.conj().resolve_conj())
    assert torch.equal(read_back["neg"], -values.imag)


def test_one_object_in_two_places_stays_one_object() -> None:
    tensor, generator = torch.randn(1000), torch.Generator().manual_seed(1)
    values = {"a": tensor, "b": [tensor, generator], "c": generator}
    assert len(packed(values)) < 2 * tensor.nbytes + 5056
    result = round_trip(values)
    assert result["a"] is result["b"][0]
    assert result["c"] is result["b"][1]


def test_a_generator_goes_on_where_it_was() -> None:
    generator = torch.Generator().manual_seed(7)
    torch.randn(3, generator=generator)
    copy = round_trip({"g": generator})["g"]
    assert torch.equal(torch.randn(5, generator=copy), torch.randn(5, generator=generator))


def test_what_was_read_does_not_depend_on_the_slot_any_more() -> None:
    values = {"t": torch.arange(10), "a": np.arange(10), "i": Image.new("L", (3, 3), 7)}
    data = bytearray(packed(values))
    result = read(memoryview(data))
    data[:] = b"\xff" * len(data)
    assert same(result, values)


def test_parameters_are_carried_as_plain_tensors() -> None:
    result = round_trip({"t": torch.nn.Parameter(torch.ones(3))})["t"]
    assert type(result) is torch.Tensor
    assert not result.requires_grad


def test_tensors_lie_on_multiples_of_256_with_zeros_between() -> None:
    plan = measure({"a": torch.full((3,), 1.0), "b": torch.full((3,), 2.0)})
    out = bytearray(b"\xaa" * plan.nbytes)
    write(plan, memoryview(out))
    assert [offset % 256 for offset in plan.offsets] == [0, 0]
    assert bytes(out[plan.offsets[0] + 12 : plan.offsets[1]]) == bytes(244)


def test_measuring_reads_no_tensor() -> None:
    tensor = torch.zeros(8)
    plan = measure({"t": tensor})
    tensor.fill_(3)
    out = bytearray(plan.nbytes)
    write(plan, memoryview(out))
    assert torch.equal(read(memoryview(out))["t"], torch.full((8,), 3.0))  # type: ignore[arg-type]


def test_a_slot_that_is_too_small_is_refused() -> None:
    plan = measure({"t": torch.zeros(8)})
    with pytest.raises(PayloadError, match="bytes are needed"):
        write(plan, memoryview(bytearray(plan.nbytes - 1)))
    with pytest.raises(PayloadError, match="writable"):
        write(plan, memoryview(bytes(plan.nbytes)))


class Colour(enum.StrEnum):
    RED = "red"


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "object can't be carried"),
        (b"bytes", "bytes can't be carried"),
        (OrderedDict(a=1), "OrderedDict can't be carried"),
        (Colour.RED, "Colour can't be carried"),
        (1 << 64, "64 bits"),
        ({1: 2}, "key 1 is not a string"),
        (CYCLE, "nested deeper"),
        (torch.zeros(2, device="meta"), "that have data"),
        (torch.zeros(2, 2).to_sparse(), "dense"),
        (np.array([object()]), "native number type"),
        (np.arange(3, dtype=">i4"), "native number type"),
        (np.datetime64("2026-01-01"), "native number type"),
        (Image.new("P", (2, 2)), "convert it to RGB"),
        ([torch.zeros(1)] * 70_000, "more than 65536 values"),
        ([torch.zeros(1) for _ in range(5000)], "more than 4096 tensors"),
        (torch.zeros([1] * 17), "17 dimensions"),
        ("x" * (1 << 20), "header of"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 50 else "",
)
def test_what_can_not_be_carried_is_named(value: object, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        measure({"outer": {"inner": value}})
    assert "values" in str(caught.value)


def test_the_total_is_bounded() -> None:
    with pytest.raises(PayloadError, match="1000 bytes"):
        measure({"t": torch.zeros(300)}, Limits(total_bytes=1000))
