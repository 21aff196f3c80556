"""The LoRA adapters that a request names: `adapters`, or `lora` and `loras` as other servers call them.

A request has names alone. What a name stands for is the resource's, so a path or an address is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from diffusion_router.api import plain_json
from diffusion_router.api.fields import InvalidField, Number
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import ADAPTER_NAME, MAX_ADAPTERS

FIELDS: Final = ("adapters", "loras", "lora")

_SCALE: Final = Number("How much it counts; absent: as the pipeline says", -100, 100)
_REMEDY: Final = (
    "an adapter is chosen by its name, as GET /v1/models lists them; others are added to spec.model.adapters"
)
# Of values in a form's text: a list or object of few fields each.
_MAX_VALUES: Final = 8 * MAX_ADAPTERS


@dataclass(frozen=True, slots=True)
class AdapterList:
    """Several, in order. Its value is a list of protobuf's Adapter."""

    description: str

    def check(self, name: str, value: object) -> list[stage_pb2.Adapter]:
        if not isinstance(value, list):
            text = f'Field {name!r} must be a list, such as [{{"name": "ink", "scale": 0.8}}]'
            raise InvalidField(name, text, code="invalid_type")
        if len(value) > MAX_ADAPTERS:
            text = f"Field {name!r} has {len(value)} adapters; at most {MAX_ADAPTERS} are allowed"
            raise InvalidField(name, text)
        found: list[stage_pb2.Adapter] = []
        for index, item in enumerate(value):
            adapter = _adapter(f"{name}[{index}]", item)
            if any(other.name == adapter.name for other in found):
                text = f"Field '{name}[{index}].name': {adapter.name!r} is given twice; keep one of the two"
                raise InvalidField(f"{name}[{index}].name", text)
            found.append(adapter)
        return found

    def parse(self, name: str, text: str) -> object:
        found = _parse(name, text)
        return found if isinstance(found, list) else [found]

    def schema(self) -> dict[str, object]:
        return {"type": "array", "maxItems": MAX_ADAPTERS, "items": _SCHEMA, "description": self.description}


@dataclass(frozen=True, slots=True)
class OneAdapter:
    """One. Its value is a list of it."""

    description: str

    def check(self, name: str, value: object) -> list[stage_pb2.Adapter]:
        return [_adapter(name, value)]

    def parse(self, name: str, text: str) -> object:
        return _parse(name, text)

    def schema(self) -> dict[str, object]:
        return {**_SCHEMA, "description": self.description}


_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": f"^{ADAPTER_NAME}$"},
                "scale": {**_SCALE.schema(), "type": ["number", "null"]},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
        {"type": "string", "pattern": f"^{ADAPTER_NAME}$"},
    ]
}


def _adapter(field: str, value: object) -> stage_pb2.Adapter:
    if isinstance(value, str):
        return stage_pb2.Adapter(name=_name(field, value))
    if not isinstance(value, dict):
        text = f'Field {field!r} must be an adapter\'s name, or an object such as {{"name": "ink", "scale": 0.8}}'
        raise InvalidField(field, text, code="invalid_type")
    for key in value:
        if key not in ("name", "scale"):
            at = f"{field}.{key[:64]}"
            raise InvalidField(at, f"Unknown field {at!r}: {_REMEDY}", code="unknown_field")
    if value.get("name") is None:
        raise InvalidField(f"{field}.name", f"Field '{field}.name' is required: {_REMEDY}", code="missing_field")
    adapter = stage_pb2.Adapter(name=_name(f"{field}.name", value["name"]))
    if value.get("scale") is not None:
        adapter.scale = _SCALE.check(f"{field}.scale", value["scale"])
    return adapter


def _name(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidField(field, f"Field {field!r} must be a string", code="invalid_type")
    if not re.fullmatch(ADAPTER_NAME, value, re.ASCII):
        text = f"Field {field!r} must be a name of letters, digits, '.', '_' and '-', no path or address: {_REMEDY}"
        raise InvalidField(field, text)
    return value


def _parse(name: str, text: str) -> object:
    """A form's text: JSON, or a name as it stands."""
    if not text.lstrip().startswith(("[", "{", '"')):
        return text
    try:
        return plain_json.parse(text, _MAX_VALUES)
    except ValueError:
        raise InvalidField(name, f"In a form, give {name!r} as JSON, or as the name of one adapter") from None
