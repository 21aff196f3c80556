"""How messages are put: short, on one line, and the same for as long as the state is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MESSAGE_LIMIT: Final = 1024
"""Characters, of a message in a status."""
DETAIL_LIMIT: Final = 320
"""Characters, of what others said: thousands of these are kept."""

# Numbers that differ from one attempt to the next.
_MOVING: Final = (
    (re.compile(r"\s*\(Request ID: [^)]*\)"), ""),
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0x…"),
)


def clip(text: str, limit: int = MESSAGE_LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def detail(text: str) -> str:
    """What somebody else said, fit to be part of a sentence."""
    for pattern, instead in _MOVING:
        text = pattern.sub(instead, text)
    return clip(" ".join(text.split()).rstrip("."), DETAIL_LIMIT)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
