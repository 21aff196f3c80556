"""No bytes can make reading allocate more than they state, crash, or run anything (I9)."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_worker.payload import Limits, PayloadError, measure, read, write

PREFIX = struct.Struct("<6sHQQ")


def valid() -> bytes:
    generator = torch.Generator().manual_seed(1)
    torch.randn(3, generator=generator)
    plan = measure(
        {
            "tensor": torch.randn(3, 4).T,
            "bools": torch.tensor([True, False, True]),
            "nested": [1, 2.5, None, "text", (True, {"a": torch.zeros(2, dtype=torch.bfloat16)})],
            "generator": generator,
            "image": Image.new("RGB", (4, 3), (1, 2, 3)),
            "bilevel": Image.new("1", (9, 2), 1),
            "kind": torch.float16,
            "device": torch.device("cpu"),
        }
    )
    out = bytearray(plan.nbytes)
    write(plan, memoryview(out))
    return bytes(out)


VALID = valid()
HEADER_BYTES = PREFIX.unpack_from(VALID)[2]


def crafted(tree: object, tensors: object = (), body: bytes = b"", raw_header: bytes | None = None) -> memoryview:
    """A payload with any header, its lengths in order."""
    header = json.dumps({"tree": tree, "tensors": tensors}).encode() if raw_header is None else raw_header
    start = -(-(PREFIX.size + len(header)) // 256) * 256 if body or tensors else PREFIX.size + len(header)
    total = start + len(body)
    data = PREFIX.pack(b"DPAYLD", 1, len(header), total) + header
    return memoryview(data + bytes(start - len(data)) + body)


def read_or_refuse(data: bytes) -> None:
    with contextlib.suppress(PayloadError):
        use(read(memoryview(data)))


def use(value: Any) -> None:
    """Touch what was read: a generator of which the state is broken must not have come through."""
    match value:
        case dict():
            for item in value.values():
                use(item)
        case list() | tuple():
            for item in value:
                use(item)
        case torch.Generator():
            torch.randn(2000, generator=value)
        case torch.Tensor():
            value.clone()
        case Image.Image():
            value.convert("RGB")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        read(memoryview(data))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    read_or_refuse(bytes(data))


@settings(max_examples=400, deadline=None)
@given(st.integers(PREFIX.size, PREFIX.size + HEADER_BYTES - 1), st.binary(max_size=12), st.integers(0, 12))
def test_a_changed_header_is_read_or_refused(place: int, inserted: bytes, removed: int) -> None:
    body = VALID[PREFIX.size + HEADER_BYTES :]
    header = VALID[PREFIX.size : place] + inserted + VALID[min(place + removed, PREFIX.size + HEADER_BYTES) :]
    header = header[: len(header) - len(body)]
    total = max(PREFIX.size + len(header), len(VALID) + len(header) - HEADER_BYTES)
    read_or_refuse(PREFIX.pack(b"DPAYLD", 1, len(header), total) + header + body)
    read_or_refuse(PREFIX.pack(b"DPAYLD", 1, len(header), len(VALID)) + header + body)


@pytest.mark.parametrize("length", [*range(64), *range(64, len(VALID), 97), len(VALID) - 1])
def test_truncated_payloads_are_refused(length: int) -> None:
    with pytest.raises(PayloadError):
        read(memoryview(VALID[:length]))


def test_what_follows_the_payload_is_not_looked_at() -> None:
    assert read(memoryview(VALID + b"\xff" * 5000)).keys() == read(memoryview(VALID)).keys()


TAGS = ["list", "tuple", "dict", "tensor", "array", "scalar", "image", "generator", "float", "dtype", "device", "size"]

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(TAGS),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(json_values, json_values, st.binary(max_size=300))
def test_any_json_for_a_header_is_read_or_refused(tree: object, tensors: object, body: bytes) -> None:
    read_or_refuse(bytes(crafted({"dict": [["a", tree]]}, tensors, body)))
    read_or_refuse(bytes(crafted({"dict": [["a", tree]]}, [["uint8", [len(body)]]], body)))


@pytest.mark.parametrize(
    "tree",
    [
        [],
        7,
        {"list": []},
        {"dict": [["a", 1], ["a", 2]]},
        {"dict": [["a"]]},
        {"dict": [[1, 2]]},
        {"dict": [["a", {"tensor": 0}]]},
        {"dict": [["a", {"tensor": -1}]]},
        {"dict": [["a", {"tensor": True}]]},
        {"dict": [["a", {"tensor": 0.0}]]},
        {"dict": [["a", {"float": "1"}]]},
        {"dict": [["a", {"float": "nan", "list": []}]]},
        {"dict": [["a", {"dtype": "__class__"}]]},
        {"dict": [["a", {"device": "cuda:99999"}]]},
        {"dict": [["a", {"device": "no_such"}]]},
        {"dict": [["a", {"size": [-1]}]]},
        {"dict": [["a", {"size": [1] * 17}]]},
        {"dict": [["a", {"eval": "1"}]]},
        {"dict": [["a", 1 << 64]]},
        {"dict": [["a", -(1 << 63) - 1]]},
    ],
    ids=str,
)
def test_a_malformed_tree_is_refused(tree: object) -> None:
    with pytest.raises(PayloadError):
        read(crafted(tree))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (["uint8", [-1]], {"tensor": 0}),
        (["uint8", [1.0]], {"tensor": 0}),
        (["uint8", [True]], {"tensor": 0}),
        (["uint8", [1 << 62]], {"tensor": 0}),
        (["uint8", [0, 1 << 62, 1 << 62]], {"tensor": 0}),
        (["uint8", [1] * 17], {"tensor": 0}),
        (["uint8", [63]], {"tensor": 0}),
        (["uint8", [65]], {"tensor": 0}),
        (["object", [64]], {"tensor": 0}),
        (["bool", [64]], {"tensor": 0}),
        (["bool", [64]], {"array": 0}),
        (["bfloat16", [32]], {"array": 0}),
        (["uint8", [64]], {"scalar": 0}),
        (["uint8", [64]], {"generator": 0}),
        (["uint8", [64]], {"image": [0, "RGB", [8, 8]]}),
        (["uint8", [64]], {"image": [0, "P", [8, 8]]}),
        (["uint8", [64]], {"image": [0, "L", [1 << 30, 1 << 30]]}),
        (["uint8", [64]], {"image": [0, "L", [-8, -8]]}),
        (["int8", [64]], {"image": [0, "L", [8, 8]]}),
        (["uint8", [64]], {"list": [{"tensor": 0}, {"array": 0}]}),
    ],
    ids=str,
)
def test_a_malformed_tensor_is_refused(entry: object, value: object) -> None:
    with pytest.raises(PayloadError):
        read(crafted({"dict": [["a", value]]}, [entry], b"\x02" * 64))


@pytest.mark.parametrize(("left", "following"), [(0, 0), (624, 624), (-1, 0), (1, 1 << 40), (625, 0), (300, 400)])
def test_a_generator_state_that_reads_past_its_end_is_refused(left: int, following: int) -> None:
    state = bytearray(torch.Generator().manual_seed(1).get_state().numpy().tobytes())
    state[8:12] = left.to_bytes(4, "little", signed=True)
    state[16:24] = following.to_bytes(8, "little")
    with pytest.raises(PayloadError, match="state"):
        read(crafted({"dict": [["g", {"generator": 0}]]}, [["uint8", [5056]]], bytes(state)))


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b"{" * 10, b"\xff" * 10, b'{"tree":NaN,"tensors":[]}', b"1" * 5000, b""]
)
def test_a_header_that_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(PayloadError):
        read(crafted(None, raw_header=raw))


def test_depth_and_number_of_values_are_bounded() -> None:
    deep: object = 1
    for _ in range(40):
        deep = {"list": [deep]}
    with pytest.raises(PayloadError, match="deeper"):
        read(crafted({"dict": [["a", deep]]}))
    with pytest.raises(PayloadError, match="more than"):
        read(crafted({"dict": [["a", {"list": [1] * 70_000}]]}))


@pytest.mark.parametrize("field", ["header", "total"])
@pytest.mark.parametrize("claim", [1 << 40, (1 << 64) - 1, 10_000_000])
def test_claims_larger_than_the_bytes_allocate_nothing(field: str, claim: int) -> None:
    header, total = (claim, len(VALID)) if field == "header" else (HEADER_BYTES, claim)
    data = memoryview(PREFIX.pack(b"DPAYLD", 1, header, total) + VALID[PREFIX.size :])
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_whole_is_bounded_by_the_limits_given() -> None:
    with pytest.raises(PayloadError, match="at most 100"):
        read(memoryview(VALID), limits=Limits(total_bytes=100))
    with pytest.raises(PayloadError, match="at most 10 are"):
        read(memoryview(VALID), limits=Limits(header_bytes=10))
    with pytest.raises(PayloadError):
        read(memoryview(VALID), limits=Limits(tensors=1))
    assert math.isfinite(len(read(memoryview(VALID))))


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(PayloadError, match="version 2, this worker reads 1"):
        read(memoryview(VALID[:6] + b"\x02\x00" + VALID[8:]))
