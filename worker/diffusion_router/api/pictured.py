"""Lists of named things in a request, each with a picture: its ControlNets, its IP-Adapters.

In JSON each holds its picture; in a form the pictures are files of their own, in the order of the list. What a name
stands for is the resource's, so a path or an address is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from diffusion_router.api import plain_json
from diffusion_router.api.fields import Integer, InvalidField, Number
from diffusionpipeline.v1 import stage_pb2

IMAGE: Final = "image"
_MISSING: Final = "missing_field"
# Of values in a form's text: a list of objects of few fields each.
_VALUES_OF_ONE: Final = 16

Item = TypeVar("Item", stage_pb2.Control, stage_pb2.IPAdapter)


@dataclass(frozen=True, kw_only=True, eq=False)
class PicturedList(Generic[Item]):
    """Several, in order, without their pictures. Its value is a list of protobuf's `message`."""

    field: str
    """What a request calls them; files of this name are their pictures."""
    kind: str
    """What people call one of them."""
    needs: str
    """Why none is without a picture."""
    listed: str
    """The field of the resource that lists them."""
    message: type[Item]
    name_pattern: str
    most: int
    numbers: Mapping[str, Number | Integer]
    """What else each may say."""
    example: str
    description: str
    check_together: Callable[[str, Item], None] = lambda _at, _item: None
    """Rules beyond one field. Raises InvalidField."""

    @property
    def form_file(self) -> str:
        """What a form calls the picture of each."""
        return f"{self.field}[{IMAGE}]"

    def check(self, name: str, value: object) -> list[Item]:
        if not isinstance(value, list):
            raise InvalidField(name, f"Field {name!r} must be a list, such as {self.example}", code="invalid_type")
        if len(value) > self.most:
            text = f"Field {name!r} has {len(value)} {self.kind}s; at most {self.most} are allowed"
            raise InvalidField(name, text)
        return [self._item(f"{name}[{index}]", item) for index, item in enumerate(value)]

    def parse(self, name: str, text: str) -> object:
        try:
            return plain_json.parse(text, _VALUES_OF_ONE * self.most)
        except ValueError:
            raise InvalidField(name, f"In a form, give {name!r} as JSON, and files {self.form_file!r}") from None

    def schema(self) -> dict[str, object]:
        numbers = {name: one.schema() for name, one in self.numbers.items()}
        item: dict[str, Any] = {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": f"^{self.name_pattern}$"},
                **{name: {**schema, "type": [schema["type"], "null"]} for name, schema in numbers.items()},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        return {"type": "array", "maxItems": self.most, "items": item, "description": self.description}

    def schema_with_pictures(self) -> dict[str, object]:
        """As JSON has them."""
        schema: dict[str, Any] = self.schema()
        item = schema["items"]
        picture = {"type": "string", "format": "base64", "description": "A PNG, JPEG or WebP picture, or its data URL"}
        items = {**item, "properties": item["properties"] | {IMAGE: picture}, "required": ["name", IMAGE]}
        return {**schema, "items": items}

    def pictures(self, given: object) -> Iterator[tuple[str, object]]:
        """Each one's picture as JSON has it, by its field. Raises InvalidField for one without."""
        for index, item in enumerate(given if isinstance(given, list) else []):
            # What else may be wrong with it is found when it is checked.
            if isinstance(item, dict):
                at = f"{self.field}[{index}].{IMAGE}"
                if item.get(IMAGE) is None:
                    raise InvalidField(at, f"Field {at!r} is required: {self.needs}", code=_MISSING)
                yield at, item[IMAGE]

    def check_pictures(self, named: int, files: int) -> None:
        """Raises InvalidField unless each has a picture, and each picture is of one."""
        if files < named:
            at = f"{self.field}[{files}].{IMAGE}"
            text = f"Of {named} {self.kind}s {files} have a picture: send a file {self.form_file!r} for each, in order"
            raise InvalidField(at, text, code=_MISSING)
        if files > named:
            text = f"{files} files {self.form_file!r}, but {named} {self.kind}s: name one for each, in order"
            raise InvalidField(self.field, text, code=_MISSING)

    def _item(self, at: str, value: object) -> Item:
        if not isinstance(value, dict):
            raise InvalidField(at, f"Field {at!r} must be an object, as in {self.example}", code="invalid_type")
        for key in value:
            if key not in ("name", *self.numbers):
                unknown = f"{at}.{key[:64]}"
                raise InvalidField(unknown, f"Unknown field {unknown!r}: {self._remedy}", code="unknown_field")
        item = self.message(name=self._name(f"{at}.name", value.get("name")))
        for key, kind in self.numbers.items():
            if value.get(key) is not None:
                setattr(item, key, kind.check(f"{at}.{key}", value[key]))
        self.check_together(at, item)
        return item

    def _name(self, at: str, value: object) -> str:
        if value is None:
            raise InvalidField(at, f"Field {at!r} is required: {self._remedy}", code=_MISSING)
        if not isinstance(value, str) or not re.fullmatch(self.name_pattern, value, re.ASCII):
            text = f"Field {at!r} must be a name of letters, digits, '.', '_' and '-', no path or address"
            raise InvalidField(at, f"{text}: {self._remedy}")
        return value

    @property
    def _remedy(self) -> str:
        return f"name one of the {self.kind}s that GET /v1/models lists"


def without_pictures(given: object) -> object:
    """A list as it is checked."""
    if not isinstance(given, list):
        return given
    return [
        {name: value for name, value in item.items() if name != IMAGE} if isinstance(item, dict) else item
        for item in given
    ]
