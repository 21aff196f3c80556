"""Kubernetes' own types inside the chart's schema, so that a key misspelt in, say, a toleration is refused as well.

They are cut out of the API's published schemas. Run as a script, this writes them into values.schema.json.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parents[3] / "charts/diffusion-operator/values.schema.json"
VERSION = "v1.37.0-local-strict"
USED = {
    "io.k8s.api.core.v1": (
        "Affinity",
        "EnvVar",
        "LocalObjectReference",
        "PodSecurityContext",
        "ResourceRequirements",
        "SecurityContext",
        "Toleration",
        "TopologySpreadConstraint",
    ),
    "io.k8s.api.networking.v1": ("NetworkPolicyPeer",),
}
_KEPT = ("type", "properties", "items", "additionalProperties", "required", "$ref", "oneOf")


def definitions() -> dict[str, Any]:
    text = files("kubernetes_validate").joinpath("kubernetes-json-schema", VERSION, "_definitions.json").read_text()
    published = json.loads(text)["$defs"]
    found: dict[str, Any] = {}
    wanted = [f"{package}.{name}" for package, names in USED.items() for name in names]
    while wanted:
        name = wanted.pop()
        if _short(name) not in found:
            found[_short(name)] = _reduced(published[name])
            wanted += _references(published[name])
    return dict(sorted(found.items()))


def _reduced(schema: Any) -> Any:
    """Without prose, and without null: Helm drops a key that is null before it looks at the schema."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "$ref" in kept:
        return {"$ref": f"#/definitions/{_short(kept['$ref'])}"}
    if isinstance(kept.get("type"), list):
        (kept["type"],) = (name for name in kept["type"] if name != "null")
    if "properties" in kept:
        kept["properties"] = {name: _reduced(field) for name, field in sorted(kept["properties"].items())}
    if "oneOf" in kept:
        kept["oneOf"] = [_reduced(one) for one in kept["oneOf"]]
    for key in ("items", "additionalProperties"):
        if key in kept:
            kept[key] = _reduced(kept[key])
    return kept


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for part in schema for name in _references(part)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
    return own + [name for part in schema.values() for name in _references(part)]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def main() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["definitions"] = definitions()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
