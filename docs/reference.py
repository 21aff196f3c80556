"""The page resource.md, the reference of all resources, from their definitions in crds/.

A table for each object of the schema. Parts that the definition shares by YAML aliases are one object once loaded, and
are written once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

CRDS: Final = Path(__file__).parents[1] / "crds"
DEFINITIONS: Final = ("diffusionpipelines", "diffusionpipelinerolescalers", "modelcaches")

HEAD: Final = """\
# Reference of the resources

Written by `make docs` from the definitions in `crds/`; `kubectl explain dpipe.spec` says the same in a cluster. A field
that is unknown is refused by `dpipe`, and by `kubectl` unless told `--validate=false`.
"""

Schema = Mapping[str, Any]


def page() -> str:
    parts = [HEAD]
    for name in DEFINITIONS:
        definition = yaml.safe_load((CRDS / f"{name}.yaml").read_text(encoding="utf-8"))
        spec = definition["spec"]
        (version,) = spec["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        parts.append(f"\n## {spec['names']['kind']}\n\n`{spec['group']}/{version['name']}`, ")
        parts.append(f"short `{'`, `'.join(spec['names']['shortNames'])}`. {schema['description']}\n")
        parts += _rules(schema)
        seen: dict[int, str] = {}
        for part in ("spec", "status"):
            parts += _section(part, schema["properties"][part], seen)
    return "".join(parts)


def _section(path: str, schema: Schema, seen: dict[int, str]) -> Iterator[str]:
    """An object's table, then those of the objects in it. `seen`: where fields and their lists were written before."""
    properties: Mapping[str, Schema] = schema["properties"]
    yield f"\n### {path}\n\n{schema['description']}\n\n| field | type | default | |\n| --- | --- | --- | --- |\n"
    inner: list[tuple[str, Schema]] = []
    elsewhere: dict[str, list[str]] = {}
    for name, field in properties.items():
        if seen.setdefault(id(field), path) != path:
            elsewhere.setdefault(seen[id(field)], []).append(f"`{name}`")
            continue
        required = "Required. " if name in schema.get("required", ()) else ""
        meaning = required + _cell(field["description"]) + _bounds(field)
        deeper, suffix = _object_in(field)
        if deeper is not None:
            below = f"{path}.{name}{suffix}"
            known = seen.setdefault(id(deeper["properties"]), below)
            if known == below:
                inner.append((below, deeper))
            else:
                meaning += f" Fields as of {_link(known)}."
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |\n"
    for known, fields in elsewhere.items():
        yield f"\nAs of {_link(known)}: {', '.join(fields)}.\n"
    yield from _rules(schema)
    for below, deeper in inner:
        yield from _section(below, deeper, seen)


def _object_in(field: Schema) -> tuple[Schema | None, str]:
    """The object that a field is, or is a list or map of."""
    for found, suffix in ((field, ""), (field.get("items"), "[]"), (field.get("additionalProperties"), ".*")):
        if found and "properties" in found:
            return found, suffix
    return None, ""


def _rules(schema: Schema) -> Iterator[str]:
    rules = list(dict.fromkeys(rule["message"] for rule in schema.get("x-kubernetes-validations", ())))
    if rules:
        yield "\nRefused, with these words:\n\n"
        yield from (f"- {rule}\n" for rule in rules)


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "type" not in field:
        return "number or string"
    # Of a nullable field, the values stand in allOf.
    for part in (field, *field.get("allOf", ())):
        if "enum" in part:
            return ", ".join(f"`{value}`" for value in part["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    return str(field["type"])


def _default(field: Schema) -> str:
    default = field.get("default")
    # An object's default is that of its fields.
    if default is None or isinstance(default, dict):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _bounds(field: Schema) -> str:
    least, most = field.get("minimum"), field.get("maximum")
    if most is not None:
        return f" {least} to {most}."
    return f" At least {least}." if least else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _link(path: str) -> str:
    """To a heading; its anchor is as GitHub makes it."""
    anchor = "".join(letter for letter in path.lower() if letter.isalnum() or letter in "-_")
    return f"[{path}](#{anchor})"
