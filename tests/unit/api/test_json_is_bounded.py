"""How many values a JSON text has is told before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_router.api.plain_json import MAX_DEPTH, parse

# Texts that look like JSON inside of strings, and ends of strings that are none.
TEXTS = st.text(alphabet='ab"\\[]{},:é\U0001f600\n') | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=30,
)


def size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


@given(value=VALUES, ascii_only=st.booleans())
def test_what_is_within_the_bound_is_parsed_and_what_is_not_is_refused(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    # Empty lists and objects count twice at most.
    assert parse(text, 2 * size(value)) == value
    if size(value) > 1:
        with pytest.raises(ValueError, match="more than"):
            parse(text, size(value) - 1)


@given(text=TEXTS)
def test_any_text_ends_as_json_does(text: str) -> None:
    try:
        # NaN and the like are Python's own.
        expected = json.loads(text, parse_constant=int)
    except ValueError:
        with pytest.raises(ValueError):  # whatever it says
            parse(text, 1000)
    else:
        assert parse(text, 1000) == expected


def test_depth_is_bounded() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, 1000)
    with pytest.raises(ValueError, match="64 deep"):
        parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1000)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', '"', '"\\', "[", ""])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # whatever it says
        parse(text, 1000)
