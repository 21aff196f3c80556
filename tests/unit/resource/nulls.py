"""For every field that a definition lets be left out: a resource with a null there, and one without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from diffusion_operator.api import crd

# Of which required fields have the first that fits.
_SAMPLES = ("a", "a.safetensors", "02:30", "10.0.0.0/8", 1, {}, [])
_ENTRY = "example.com/a"


@dataclass(frozen=True)
class Optional:
    path: str
    schema: Mapping[str, Any]
    null: dict[str, Any]
    """The spec of a resource, valid in types and bounds, with a null at `path`."""
    absent: dict[str, Any]
    """The same one without the field."""


def optional_fields(plural: str) -> list[Optional]:
    """Every field of the spec that may be left out, and an entry of every map."""
    spec = crd.schema(plural)["properties"]["spec"]
    served = _pulled if plural == crd.CACHE_PLURAL else _served
    return [
        Optional("spec" + path, field, served(path, _filled(null, spec)), served(path, _filled(absent, spec)))
        for path, field, null, absent in _places(spec)
    ]


def _served(path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """With a model, as a pipeline must have it."""
    if "model" not in spec:
        return spec
    model: dict[str, Any] = {"source": "Bundled"} if path == ".model.id" else {"id": "a/b"}
    if "cacheRetention" in path:
        model["cache"] = {"type": "PerPod"}
    return {**spec, "model": {**model, **spec["model"]}}


def _pulled(path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """With a role beside the one that it is about, as a ModelCache must have one."""
    beside = "encoder" if path == ".roles.denoiser" else "denoiser"
    return {**spec, "model": {"id": "a/b", **spec["model"]}, "roles": {beside: {}, **spec["roles"]}}


Place = tuple[str, Mapping[str, Any], Any, Any]
"""Path and schema of a field, and two values of its object: with null, and without the field."""


def _places(schema: Mapping[str, Any]) -> Iterator[Place]:
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            yield f".{name}", field, {name: None}, {}
        for path, inner, null, absent in _places(field):
            yield f".{name}{path}", inner, {name: null}, {name: absent}
    if (entry := schema.get("additionalProperties")) is not None:
        yield f".{_ENTRY}", entry, {_ENTRY: None}, {}
    if "items" in schema:
        for path, inner, null, absent in _places(schema["items"]):
            yield f"[0]{path}", inner, [null], [absent]


def _filled(value: Any, schema: Mapping[str, Any]) -> Any:
    """With all that objects in it require."""
    if isinstance(value, Mapping):
        fields = schema.get("properties", {})
        filled = {name: _filled(item, fields.get(name, {})) for name, item in value.items()}
        return {**_required(schema, filled), **filled}
    if isinstance(value, list):
        return [_filled(item, schema["items"]) for item in value]
    return value


def _required(schema: Mapping[str, Any], given: Mapping[str, Any] = {}) -> dict[str, Any]:
    fields = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in given]
    return {name: _sample(fields[name]) for name in missing}


def _sample(field: Mapping[str, Any]) -> Any:
    """Raises StopIteration if none of _SAMPLES fits: add one that does."""
    if "enum" in field:
        return field["enum"][0]
    if field["type"] == "object":
        return _filled({}, field)
    return next(deepcopy(one) for one in _SAMPLES if Draft202012Validator(field).is_valid(one))
