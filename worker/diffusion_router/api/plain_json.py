"""JSON of a bounded size: `json.loads` takes seconds for the millions of values that a body has room for."""

from __future__ import annotations

import json
import re
from typing import Final

MAX_DEPTH: Final = 64
# Strings, closed or not, and what begins, ends or follows a value. Possessive: nothing is tried twice.
_TOKEN: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{,\]}]', re.DOTALL)


def parse(text: str, max_values: int) -> object:
    """Raises ValueError, which says what is wrong."""
    values, depth = 1, 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                values += 1
                depth += 1
            case ",":
                values += 1
            case "]" | "}":
                depth -= 1
        # Before the next token, so that what is refused costs no more than what is allowed.
        if values > max_values:
            raise ValueError(f"it has more than {max_values} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
