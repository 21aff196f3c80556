"""JSON of a bounded size: `json.loads` takes seconds for the millions of values that a body has room for.

It lets no other thread run meanwhile, so that parsing in one would not help alone. How many there are is found in short
steps, before.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAX_DEPTH: Final = 64
# What begins, ends or follows a value, outside of strings.
_MARK: Final = re.compile(r'["\[{,\]}]')
# Some of what a string holds, possessive: nothing is tried twice.
_PIECE: Final = re.compile(r'(?:[^"\\]++|\\.){1,4096}+', re.DOTALL)


def parse(text: str, max_values: int) -> object:
    """Raises ValueError, which says what is wrong."""
    _weigh(text, max_values)
    return json.loads(text, parse_constant=_no_constant)


def _weigh(text: str, max_values: int) -> None:
    values, depth, position = 1, 0, 0
    while mark := _MARK.search(text, position):
        position = mark.end()
        match mark[0]:
            case '"':
                while piece := _PIECE.match(text, position):
                    position = piece.end()
                position += 1
            case "[" | "{":
                values += 1
                depth += 1
            case ",":
                values += 1
            case _:
                depth -= 1
        if values > max_values:
            raise ValueError(f"it has more than {max_values} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
