"""Which fields there are, by the definitions and the chart's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from testbed.documents import ROOT
from unit.chart.charts import VALUES

Schema = Mapping[str, Any]

PIPELINE: Schema
SCALER: Schema
CACHE: Schema
PIPELINE, SCALER, CACHE = (
    yaml.safe_load((ROOT / "crds" / f"{kind}.yaml").read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for kind in ("diffusionpipelines", "diffusionpipelinerolescalers", "modelcaches")
)
_SPEC: Schema = PIPELINE["properties"]["spec"]
_ROLE: Schema = _SPEC["properties"]["roles"]["properties"]["encoder"]
# A page that has named the object speaks of its fields without it.
_BEGINNINGS = (PIPELINE, _SPEC, _ROLE, _SPEC["properties"]["transport"], SCALER, CACHE)


def has(path: str) -> bool:
    """Whether a dotted path is a field of the resources, or a value of the chart; `<role>` is any role."""
    names = path.replace("<role>", "encoder").split(".")
    return any(_field(beginning, names) is not None for beginning in _BEGINNINGS) or _is_value(names)


def default(path: str) -> Any:
    """Of a field of the pipeline's spec."""
    field = _field(_SPEC, path.split("."))
    assert field is not None, f"there is no field {path}"
    return field.get("default")


def names() -> frozenset[str]:
    """Of all fields and values, at any depth."""
    return frozenset((*_names(PIPELINE), *_names(SCALER), *_names(CACHE), *_keys(VALUES)))


def words() -> frozenset[str]:
    """The values that fields may have, where they may not have any."""
    return frozenset(_words(PIPELINE))


def _field(schema: Schema, path: list[str]) -> Schema | None:
    for name in path:
        inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if not isinstance(inner, Mapping):
            return None
        schema = inner
    return schema


def _is_value(path: list[str]) -> bool:
    value: Any = VALUES
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def _parts(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("properties", {}).values()
    yield from (schema[part] for part in ("items", "additionalProperties") if isinstance(schema.get(part), Mapping))


def _names(schema: Schema) -> Iterator[str]:
    yield from schema.get("properties", {})
    for part in _parts(schema):
        yield from _names(part)


def _words(schema: Schema) -> Iterator[str]:
    for part in (schema, *schema.get("allOf", ())):
        yield from map(str, part.get("enum", ()))
    for part in _parts(schema):
        yield from _words(part)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
