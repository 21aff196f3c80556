"""Defaults and validation by a structural schema, as the API server does them.

The order is the API server's: nulls dropped, unknown fields found, defaults filled in, then types and bounds, then
the CEL rules (see `rules`). Unlike the API server, which prunes unknown fields unless asked to be strict, this refuses
them: a misspelt field would otherwise be silently without effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from diffusion_operator.api.errors import FieldError, Path

Schema = Mapping[str, Any]

_OPEN: Final = "x-kubernetes-preserve-unknown-fields"

_TYPE_NAMES: Final = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "nothing",
}
_SCHEMA_TYPES: Final = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "number": "a number",
}


def without_nulls(value: Any, schema: Schema) -> Any:
    """A copy without the keys whose value is null, which means left out.

    The API server keeps the null of a field that has no default where it was applied server-side; such a field is
    `nullable`, or the apply would be refused. Where the schema takes unknown fields, null stays: there it is the owner
    of the field who knows what it means.
    """
    if schema.get(_OPEN):
        return deepcopy(value)
    if isinstance(value, Mapping):
        return {key: without_nulls(item, _field(schema, key) or {}) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item, schema.get("items", {})) for item in value]
    return value


def with_defaults(value: Any, schema: Schema) -> Any:
    """A copy in which every field that was left out has its default. Values of a wrong type stay as they are."""
    if isinstance(value, Mapping):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        filled = {key: with_defaults(item, _field(schema, key) or {}) for key, item in value.items()}
        for key, field in properties.items():
            if key not in filled and "default" in field:
                filled[key] = with_defaults(deepcopy(field["default"]), field)
        return filled
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    return value


def unknown_fields(value: Any, schema: Schema, path: Path = ()) -> Iterator[FieldError]:
    """Fields that the schema does not have."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            field = _field(schema, key)
            if field is not None:
                yield from unknown_fields(item, field, (*path, str(key)))
            elif not schema.get(_OPEN):
                known = list(schema.get("properties", {}))
                yield FieldError((*path, str(key)), f"unknown field{_suggestion(str(key), known)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), (*path, index))


def _field(schema: Schema, key: Any) -> Schema | None:
    """The schema of an object's field, whether it has a name of its own or is an entry of a map."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if key in properties:
        return properties[key]
    others = schema.get("additionalProperties")
    return others if isinstance(others, Mapping) else None


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def schema_errors(value: Any, schema: Schema) -> Iterator[FieldError]:
    """Wrong types, bounds, patterns, missing fields and double list keys, in the order of the document."""
    found = Draft202012Validator(schema).iter_errors(value)
    for error in sorted(found, key=lambda error: [str(part) for part in error.absolute_path]):
        yield FieldError(tuple(error.absolute_path), _message(error))
    yield from _duplicate_keys(value, schema, ())


def _message(error: ValidationError) -> str:
    given: Any = error.instance
    wanted: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "not" | "minItems" | "maxItems" | "minProperties" | "maxProperties" if schema.get(_OPEN):
            # True and false are no quantities, which are all others that may be of several types.
            taken = "a quantity, such as 500m, 0.5 or 4Gi" if "not" in schema else "a number, a text, true or false"
            return f"must be {taken}, not {_TYPE_NAMES[type(given)]} ({given!r})"
        case "type":
            return (
                f"must be {_SCHEMA_TYPES[wanted]}, not {_TYPE_NAMES.get(type(given), type(given).__name__)} ({given!r})"
            )
        case "anyOf":
            types = " or ".join(_SCHEMA_TYPES[option["type"]] for option in wanted)
            return f"must be {types}, not {_TYPE_NAMES.get(type(given), type(given).__name__)} ({given!r})"
        case "enum":
            return f"must be one of {', '.join(wanted)}, not {given!r}"
        case "required":
            missing = [name for name in wanted if name not in given]
            return f"lacks the required field{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        case "minimum":
            return f"must be at least {wanted}, not {given}"
        case "maximum":
            return f"must be at most {wanted}, not {given}"
        case "minLength":
            return "must not be empty"
        case "maxLength":
            return f"must have at most {wanted} characters, not {len(given)}"
        case "maxItems" | "maxProperties":
            return f"must have at most {wanted} items, not {len(given)}"
        case "pattern":
            return f"must match {wanted}, which {given!r} does not"
        case _:
            return str(error.message)


def _duplicate_keys(value: Any, schema: Schema, path: Path) -> Iterator[FieldError]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _duplicate_keys(item, schema.get("properties", {}).get(key, {}), (*path, key))
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
        for index, item in enumerate(value):
            if item in value[:index]:
                yield FieldError((*path, index), f"{item} is given twice: keep one of the two")
    elif isinstance(value, list):
        names = schema.get("x-kubernetes-list-map-keys", [])
        seen: dict[tuple[Any, ...], int] = {}
        for index, item in enumerate(value):
            if not names or not isinstance(item, Mapping) or not all(name in item for name in names):
                continue
            key_values = tuple(item[name] for name in names)
            first = seen.setdefault(key_values, index)
            if first != index:
                text = ", ".join(map(str, key_values))
                yield FieldError((*path, index), f"{text} is already given by item {first}: keep one of the two")
