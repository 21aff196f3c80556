"""Resources with values at, around and beyond every bound of the definition, wherever a field is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from testbed.controlplane.client import JSON

Path = tuple[str, ...]
Draw = tuple[Path, Any]

ITEM = "[]"
"""In a path: the single item of a list."""
ENTRY = "example.com/a"
"""In a path: the single key of a map."""

_STRINGS = (
    "",
    "x",
    "a/b",
    "/a",
    "../a",
    "A_b",
    "10Gi",
    "1e3",
    "0",
    "50%",
    "0%",
    "101%",
    "rdma/hca",
    "sha256:" + "a" * 64,
)
_NUMBERS = (-1, 0, 1, 1.5)


def fields(schema: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every field that the schema has, with its own schema."""
    for name, field in schema.get("properties", {}).items():
        yield (*path, name), field
        yield from fields(field, (*path, name))
    for key, inner in ((ITEM, schema.get("items")), (ENTRY, schema.get("additionalProperties"))):
        if isinstance(inner, Mapping):
            yield (*path, key), inner
            yield from fields(inner, (*path, key))


def values(field: Mapping[str, Any]) -> list[Any]:
    """For a field: what it takes, what it just takes, what it just does not take, and what has another type."""
    found: list[Any] = [None]
    if field.get("x-kubernetes-int-or-string"):
        return [*found, *_STRINGS, *_NUMBERS, True]
    if "type" not in field:
        return [*found, *_STRINGS, *_NUMBERS, True, {}, {"a": 1}, [], [1]]
    match field["type"]:
        case "boolean":
            found += [True, False, "true"]
        case "integer":
            low, high = field.get("minimum", 0), field.get("maximum", 2**31 - 1)
            found += [low - 1, low, high, high + 1, str(low), low + 0.5]
        case "number":
            low, high = field["minimum"], field["maximum"]
            found += [low - 0.5, low, 0.25, high, high + 1, str(high), True]
        case "string":
            most = field.get("maxLength", 64)
            allowed = [value for part in (field, *field.get("allOf", ())) for value in part.get("enum", ())]
            found += [*allowed, *_STRINGS, "a" * most, "a" * (most + 1), 1]
        case "array":
            found += [[], {}, [None]]
        case "object":
            found += [{}, [], "x"]
    return found


def draws(schema: Mapping[str, Any]) -> list[Draw]:
    return [(path, value) for path, field in fields(schema) for value in values(field)]


def combined(draws: list[Draw], count: int, seed: int) -> list[list[Draw]]:
    """So many times two to four of them together."""
    chosen = random.Random(seed)
    return [chosen.sample(draws, chosen.randint(2, 4)) for _ in range(count)]


def put(base: Mapping[str, Any], *given: Draw) -> JSON:
    """`base` with these values; one that finds something else in its way is left out."""
    made = deepcopy(dict(base))
    for path, value in given:
        _put(made, path, value)
    return made


def _put(place: Any, path: Path, value: Any) -> None:
    for key, following in zip(path, (*path[1:], ""), strict=True):
        last = following == ""
        empty: Any = value if last else [] if following == ITEM else {}
        if key == ITEM and isinstance(place, list):
            if not place or last:
                place[:] = [empty]
            place = place[0]
        elif key != ITEM and isinstance(place, dict):
            if last:
                place[key] = value
            place = place.setdefault(key, empty)
        else:
            return
