"""The chart as real helm renders it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from testbed.controlplane import programs

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/diffusion-operator"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
METADATA: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())

PROMETHEUS = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"))
RELEASE = "diffusion"
NAMESPACE = "diffusion-system"

EVERYTHING: dict[str, Any] = {
    "replicas": 2,
    "leaderElection": {"enabled": True},
    "monitoring": {
        "operator": {"kind": "ServiceMonitor"},
        "pipelines": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
}
"""Values with which every template makes something."""

Object = dict[str, Any]


class Refused(Exception):
    """helm would not render the chart; says what helm said."""


@dataclass(frozen=True)
class Rendered:
    text: str
    objects: Sequence[Object] = field(repr=False)

    def of(self, kind: str, component: str | None = None) -> list[Object]:
        return [
            item
            for item in self.objects
            if item["kind"] == kind and component in (None, item["metadata"]["labels"]["app.kubernetes.io/component"])
        ]

    def one(self, kind: str, component: str | None = None) -> Object:
        (found,) = self.of(kind, component)
        return found

    @property
    def pod(self) -> Object:
        """The operator's."""
        template: Object = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def container(self) -> Object:
        (container,) = self.pod["spec"]["containers"]
        found: Object = container
        return found


def render(
    values: Mapping[str, Any] | None = None,
    *,
    apis: Sequence[str] = (),
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
    kubernetes: str = "1.35.0",
) -> Rendered:
    arguments = ["template", release, str(chart), "--namespace", namespace, "--kube-version", kubernetes]
    for api in apis:
        arguments += ["--api-versions", api]
    return _rendered((*arguments, "--values", "-"), yaml.safe_dump(dict(values or {})))


@cache
def _rendered(arguments: tuple[str, ...], values: str) -> Rendered:
    """Many tests compare with the same documents; nobody changes them."""
    text = helm(*arguments, stdin=values)
    return Rendered(text, [item for item in yaml.load_all(text, yaml.CSafeLoader) if item])


def notes(values: Mapping[str, Any] | None = None) -> str:
    arguments = ["install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", "--values", "-"]
    return helm(*arguments, stdin=yaml.safe_dump(dict(values or {}))).partition("NOTES:\n")[2]


def helm(*arguments: str | Path, stdin: str = "") -> str:
    # No cluster: whatever the machine's own kubeconfig names is not asked.
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    done = subprocess.run(
        [programs.helm(), *arguments], input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """As helm merges values: objects deeply, anything else replaced."""
    found = dict(base)
    for key, value in more.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def at(path: Sequence[str], value: Any) -> dict[str, Any]:
    """The values that set only what lies at `path`."""
    for key in reversed(path):
        value = {key: value}
    found: dict[str, Any] = value
    return found


def leaves(values: Mapping[str, Any] = VALUES, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of values.yaml that is no object with keys of its own, with its path."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def objects(values: Mapping[str, Any] = VALUES, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every object of values.yaml, the root's first."""
    yield path
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from objects(value, (*path, key))
