"""An accepted value that does nothing is a bug: each one of values.yaml, changed, changes what is rendered."""

from __future__ import annotations

import re
from typing import Any

import pytest

from unit.chart.charts import CHART, EVERYTHING, PROMETHEUS, SCHEMA, VALUES, at, leaves, merged, render

OTHERS: dict[str, Any] = {
    "image.tag": "1.2.3",
    "image.digest": f"sha256:{'0a' * 32}",
    "imagePullSecrets": [{"name": "registry"}],
    "watchNamespaces": ["paint"],
    "extraArgs": ["--router-address={pipeline}:{port}"],
    "extraEnv": [{"name": "A", "value": "b"}],
    "securityContext.capabilities.drop": ["NET_RAW"],
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "networkPolicy.from": [{"namespaceSelector": {}}],
    "platform.imagePullSecrets": [{"name": "registry"}],
    "platform.egress": [{"ports": [{"port": 3128}]}],
    "platform.modelCachePath": "/mnt/models",
    "platform.securityProfile": "Custom",
    **{
        f"platform.{pods}.{name}": value
        for pods in ("pods", "workers", "gpuWorkers", "router")
        for name, value in {
            "env": [{"name": "A", "value": "b"}],
            "tolerations": [{"operator": "Exists"}],
            "podSecurityContext": {"runAsUser": 7},
            "securityContext": {"runAsUser": 7},
        }.items()
    },
    "monitoring.operator.kind": "PodMonitor",
    "monitoring.operator.interval": "15s",
    "monitoring.operator.scrapeTimeout": "5s",
    "monitoring.pipelines.interval": "15s",
    "monitoring.pipelines.scrapeTimeout": "5s",
    "monitoring.rules.notReadyFor": "1h",
}
"""Another value for those of which none can be guessed."""

BASES: dict[str, dict[str, Any]] = {
    "replicas": {"leaderElection": {"enabled": True}},
    "leaderElection.enabled": {"replicas": 1},
    "serviceAccount.create": {"serviceAccount": {"name": "given"}},
    "monitoring.operator.kind": {"monitoring": {"rules": {"enabled": False}}},
}
"""What else must be so for a value to be changed alone, upon values with which every template makes something."""


def another(path: tuple[str, ...], value: Any) -> Any:
    name = ".".join(path)
    if name in OTHERS:
        return OTHERS[name]
    schema: dict[str, Any] = SCHEMA
    for key in path:
        schema = schema.get("properties", {}).get(key, {})
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return next(choice for choice in schema["enum"] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    assert value == {}, f"OTHERS lacks another value for {name}"
    return {"example": "yes"}


@pytest.mark.parametrize("path", [path for path, _ in leaves()], ids=".".join)
def test_a_changed_value_changes_the_documents(path: tuple[str, ...]) -> None:
    base = merged(EVERYTHING, BASES.get(".".join(path), {}))
    value = merged(VALUES, base)
    for key in path:
        value = value[key]
    changed = merged(base, at(path, another(path, value)))
    assert render(changed, apis=PROMETHEUS).objects != render(base, apis=PROMETHEUS).objects


def test_every_value_is_explained_by_a_comment_above_it_or_above_what_holds_it() -> None:
    """values.yaml is the manual."""
    bare = []
    explained: dict[int, bool] = {}  # by indentation, of what is open at this line
    comment = False
    for line in (CHART / "values.yaml").read_text().splitlines():
        key = re.match(r"( *)(\w+):(.*)", line)
        if key:
            indent = len(key[1])
            explained = {depth: known for depth, known in explained.items() if depth < indent}
            explained[indent] = comment
            if key[3] and not any(explained.values()):
                bare.append(line.strip())
        comment = line.lstrip().startswith("#")
    assert bare == []
