"""Kinds of value that a request's field can have.

Each checks a value as parsed from JSON, reads it from a form (where all is text), and is a schema in the OpenAPI
document, so that the three can't differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from diffusion_router.api import plain_json

# A JSON document's integers have no bound, and more digits than these are no number here.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")


class InvalidField(ValueError):
    """The request can't be served as it is. field: the one at fault, or None; the message names it and the remedy."""

    def __init__(self, field: str | None, message: str, *, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.field = field
        self.code = code


class Field(Protocol):
    """What a field can hold. `check` returns the value to use; both raise InvalidField."""

    def check(self, name: str, value: object) -> object: ...

    def parse(self, name: str, text: str) -> object: ...

    def schema(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """Any text that UTF-8 can carry, in characters."""

    description: str
    max_length: int
    min_length: int = 0

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidField(name, f"Field {name!r} must be a string", code="invalid_type")
        if len(value) < self.min_length:
            raise InvalidField(name, f"Field {name!r} must not be empty")
        if len(value) > self.max_length:
            raise InvalidField(
                name, f"Field {name!r} has {len(value)} characters; at most {self.max_length} are allowed"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidField(name, f"Field {name!r} holds half a character (a lone surrogate)") from None
        return value

    def parse(self, name: str, text: str) -> str:
        return text

    def schema(self) -> dict[str, object]:
        bounds = {"minLength": self.min_length} if self.min_length else {}
        return {"type": "string", **bounds, "maxLength": self.max_length, "description": self.description}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within bounds, both included."""

    description: str
    minimum: int
    maximum: int

    def check(self, name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise InvalidField(name, f"Field {name!r} must be a whole number", code="invalid_type")
        if not self.minimum <= value <= self.maximum:
            raise InvalidField(name, f"Field {name!r} must be from {self.minimum} to {self.maximum}")
        return int(value)

    def parse(self, name: str, text: str) -> object:
        return int(text) if _INTEGER.fullmatch(text) else text

    def schema(self) -> dict[str, object]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum, "description": self.description}


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within bounds, both included."""

    description: str
    minimum: float
    maximum: float

    def check(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidField(name, f"Field {name!r} must be a number", code="invalid_type")
        if not self.minimum <= value <= self.maximum:
            raise InvalidField(name, f"Field {name!r} must be from {self.minimum:g} to {self.maximum:g}")
        return float(value)

    def parse(self, name: str, text: str) -> object:
        return _number(text)

    def schema(self) -> dict[str, object]:
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum, "description": self.description}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    description: str
    words: tuple[str, ...]

    def check(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise InvalidField(name, f"Field {name!r} must be {' or '.join(self.words)}")
        return value

    def parse(self, name: str, text: str) -> str:
        return text

    def schema(self) -> dict[str, object]:
        return {"type": "string", "enum": list(self.words), "description": self.description}


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off."""

    description: str

    def check(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise InvalidField(name, f"Field {name!r} must be true or false", code="invalid_type")
        return value

    def parse(self, name: str, text: str) -> object:
        return {"true": True, "false": False}.get(text, text)

    def schema(self) -> dict[str, object]:
        return {"type": "boolean", "description": self.description}


@dataclass(frozen=True, slots=True)
class Never:
    """A switch of OpenAI's API that only exists here as "off"."""

    description: str

    def check(self, name: str, value: object) -> bool:
        if value is not False:
            raise InvalidField(name, f"Field {name!r} can only be false here: {self.description}")
        return False

    def parse(self, name: str, text: str) -> object:
        return False if text == "false" else text

    def schema(self) -> dict[str, object]:
        return {"type": "boolean", "enum": [False], "description": self.description}


@dataclass(frozen=True, slots=True)
class Size:
    """`WxH` in pixels, or `auto`: the model's own. Its value is (width, height) or None."""

    max_pixels: int

    _PATTERN = "[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"

    def check(self, name: str, value: object) -> tuple[int, int] | None:
        if value == "auto":
            return None
        if not isinstance(value, str) or not re.fullmatch(Size._PATTERN, value, re.ASCII):
            raise InvalidField(name, f"Field {name!r} must be auto or WxH in pixels, such as 1024x1024")
        width, height = (int(part) for part in value.split("x"))
        if width * height > self.max_pixels:
            raise InvalidField(
                name, f"Field {name!r} asks for {width * height} pixels; at most {self.max_pixels} are allowed"
            )
        return width, height

    def parse(self, name: str, text: str) -> str:
        return text

    def schema(self) -> dict[str, object]:
        description = f"WxH in pixels, at most {self.max_pixels} in all, or auto: the model's own"
        return {"type": "string", "pattern": f"^(auto|{Size._PATTERN})$", "description": description}


@dataclass(frozen=True, slots=True)
class Seconds:
    """A length of time, also as text, as OpenAI's video API has it."""

    description: str
    maximum: float

    def check(self, name: str, value: object) -> float:
        seconds = _number(value) if isinstance(value, str) else value
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InvalidField(name, f"Field {name!r} must be a number of seconds", code="invalid_type")
        if not 0 < seconds <= self.maximum:
            raise InvalidField(name, f"Field {name!r} must be more than 0 and at most {self.maximum:g} seconds")
        return float(seconds)

    def parse(self, name: str, text: str) -> str:
        return text

    def schema(self) -> dict[str, object]:
        number = {"type": "number", "exclusiveMinimum": 0, "maximum": self.maximum}
        return {
            "anyOf": [number, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}],
            "description": self.description,
        }


@dataclass(frozen=True, slots=True)
class Arguments:
    """Named scalars, for arguments that only this family of models has."""

    description: str
    reserved: frozenset[str]
    max_arguments: int = 64
    max_length: int = 8000

    _NAME = "[a-z][a-z0-9_]{0,63}"

    def check(self, name: str, value: object) -> Mapping[str, int | float | str | bool]:
        if not isinstance(value, dict):
            raise InvalidField(name, f"Field {name!r} must be an object", code="invalid_type")
        if len(value) > self.max_arguments:
            raise InvalidField(
                name, f"Field {name!r} has {len(value)} entries; at most {self.max_arguments} are allowed"
            )
        return {
            argument: self._check_one(f"{name}.{argument[:64]}", argument, item) for argument, item in value.items()
        }

    def _check_one(self, name: str, argument: str, value: object) -> int | float | str | bool:
        if not re.fullmatch(Arguments._NAME, argument, re.ASCII):
            raise InvalidField(name, f"Field {name!r}: an argument's name is a word such as max_sequence_length")
        if argument in self.reserved:
            raise InvalidField(name, f"Field {name!r} can't be set here: use the request's own field, if there is one")
        match value:
            case bool():
                return value
            case int() if -(2**63) <= value < 2**63:
                return value
            case float() if math.isfinite(value):
                return value
            case str():
                return Text("", self.max_length).check(name, value)
            case _:
                raise InvalidField(name, f"Field {name!r} must be a string, a boolean or a number of at most 64 bits")

    def parse(self, name: str, text: str) -> object:
        try:
            return plain_json.parse(text, 16 * self.max_arguments)
        except ValueError:
            raise InvalidField(name, f"In a form, give {name!r} as JSON, or one by one as {name}[argument]") from None

    def schema(self) -> dict[str, object]:
        return {
            "type": "object",
            "maxProperties": self.max_arguments,
            "propertyNames": {"pattern": f"^{Arguments._NAME}$", "not": {"enum": sorted(self.reserved)}},
            "additionalProperties": {
                "anyOf": [
                    {"type": "boolean"},
                    {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
                    {"type": "number"},
                    {"type": "string", "maxLength": self.max_length},
                ]
            },
            "description": self.description,
        }


def parse_scalar(text: str) -> int | float | str | bool:
    """A form's text as the scalar that it looks like."""
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    number = _number(text)
    return number if isinstance(number, float) else text


def _number(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
