"""The ControlNets that a request names, each with the picture by which it leads.

In JSON a control holds its picture; in a form the pictures are files of their own, in the order of the controls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_router.api import plain_json
from diffusion_router.api.fields import Integer, InvalidField, Number
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import CONTROL_NAME, CONTROLS, MAX_CONTROLS

FORM_FILE: Final = "controls[image]"
"""What a form calls the picture of a control."""
IMAGE: Final = "image"

_NUMBERS: Final[Mapping[str, Number | Integer]] = {
    "scale": Number("How much it counts; absent: as the pipeline says", -100, 100),
    "start": Number("The share of the steps after which it begins to lead; absent: 0", 0, 1),
    "end": Number("The share of the steps after which it leads no more; absent: 1", 0, 1),
    "mode": Integer("Which kind of picture it is, of a ControlNet for several", 0, 1000),
}
_EXAMPLE: Final = '[{"name": "edges", "image": "data:image/png;base64,…", "scale": 0.8}]'
_REMEDY: Final = "a ControlNet is chosen by its name, as GET /v1/models lists them"
# Of values in a form's text: a list of objects of few fields each.
_MAX_VALUES: Final = 16 * MAX_CONTROLS


@dataclass(frozen=True, slots=True)
class ControlList:
    """Several, in order, without their pictures. Its value is a list of protobuf's Control."""

    description: str

    def check(self, name: str, value: object) -> list[stage_pb2.Control]:
        if not isinstance(value, list):
            raise InvalidField(name, f"Field {name!r} must be a list, such as {_EXAMPLE}", code="invalid_type")
        if len(value) > MAX_CONTROLS:
            text = f"Field {name!r} has {len(value)} controls; at most {MAX_CONTROLS} are allowed"
            raise InvalidField(name, text)
        return [_control(f"{name}[{index}]", item) for index, item in enumerate(value)]

    def parse(self, name: str, text: str) -> object:
        try:
            return plain_json.parse(text, _MAX_VALUES)
        except ValueError:
            raise InvalidField(name, f"In a form, give {name!r} as JSON, and files {FORM_FILE!r}") from None

    def schema(self) -> dict[str, object]:
        control: dict[str, Any] = {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": f"^{CONTROL_NAME}$"},
                **{name: {**one.schema(), "type": [one.schema()["type"], "null"]} for name, one in _NUMBERS.items()},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        return {"type": "array", "maxItems": MAX_CONTROLS, "items": control, "description": self.description}


def with_pictures(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a request whose controls hold their pictures, as JSON has them."""
    properties = schema["properties"]
    if CONTROLS not in properties:
        return dict(schema)
    whole = properties[CONTROLS]
    control = whole["items"]
    picture = {"type": "string", "format": "base64", "description": "A PNG, JPEG or WebP picture, or its data URL"}
    items = {**control, "properties": control["properties"] | {IMAGE: picture}, "required": ["name", IMAGE]}
    return {**schema, "properties": {**properties, CONTROLS: {**whole, "items": items}}}


def pictures(controls: object) -> Iterator[tuple[str, object]]:
    """Each control's picture as JSON has it, by its field. Raises InvalidField for a control without one."""
    for index, control in enumerate(controls if isinstance(controls, list) else []):
        # What else may be wrong with it is found when it is checked.
        if isinstance(control, dict):
            field = f"{CONTROLS}[{index}].{IMAGE}"
            if control.get(IMAGE) is None:
                raise InvalidField(
                    field, f"Field {field!r} is required: a ControlNet leads by a picture", code=_MISSING
                )
            yield field, control[IMAGE]


def without_pictures(controls: object) -> object:
    """The controls as they are checked."""
    if not isinstance(controls, list):
        return controls
    return [
        {name: value for name, value in control.items() if name != IMAGE} if isinstance(control, dict) else control
        for control in controls
    ]


def check_pictures(controls: int, files: int) -> None:
    """Raises InvalidField unless each control has a picture, and each picture a control."""
    if files < controls:
        field = f"{CONTROLS}[{files}].{IMAGE}"
        text = f"Of {controls} controls {files} have a picture: send a file {FORM_FILE!r} for each, in their order"
        raise InvalidField(field, text, code=_MISSING)
    if files > controls:
        text = f"{files} files {FORM_FILE!r}, but {controls} controls: name a control for each, in their order"
        raise InvalidField(CONTROLS, text, code=_MISSING)


_MISSING: Final = "missing_field"


def _control(field: str, value: object) -> stage_pb2.Control:
    if not isinstance(value, dict):
        raise InvalidField(field, f"Field {field!r} must be an object, as in {_EXAMPLE}", code="invalid_type")
    for key in value:
        if key not in ("name", *_NUMBERS):
            at = f"{field}.{key[:64]}"
            raise InvalidField(at, f"Unknown field {at!r}: {_REMEDY}", code="unknown_field")
    name = value.get("name")
    if name is None:
        raise InvalidField(f"{field}.name", f"Field '{field}.name' is required: {_REMEDY}", code=_MISSING)
    if not isinstance(name, str) or not re.fullmatch(CONTROL_NAME, name, re.ASCII):
        text = (
            f"Field '{field}.name' must be a name of letters, digits, '.', '_' and '-', no path or address: {_REMEDY}"
        )
        raise InvalidField(f"{field}.name", text)
    control = stage_pb2.Control(name=name)
    for key, kind in _NUMBERS.items():
        if value.get(key) is not None:
            setattr(control, key, kind.check(f"{field}.{key}", value[key]))
    if control.HasField("start") and control.start >= (control.end if control.HasField("end") else 1):
        raise InvalidField(f"{field}.start", f"Field '{field}.start' must be below its end")
    if control.HasField("end") and control.end <= control.start:
        raise InvalidField(f"{field}.end", f"Field '{field}.end' must be above its start")
    return control
