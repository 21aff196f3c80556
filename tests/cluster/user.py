"""One pipeline as its user makes, edits, scales and reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.examples import EXAMPLES

API_VERSION = "diffusion-operator.dev/v1alpha1"
LABEL = "diffusion-operator.dev/pipeline"
ROLES = ("encoder", "denoiser", "decoder", "router")

DIGITS: JSON = {"model": {"source": "Bundled"}, "transport": {"protocol": "tcp"}}


class Condition(NamedTuple):
    status: str
    reason: str
    message: str


class User:
    """Of the pipeline `name` in a namespace, whether it is there or not."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.namespace = namespace
        self.name = name
        self.pipelines = f"/apis/{API_VERSION}/namespaces/{namespace}/diffusionpipelines"
        self.path = f"{self.pipelines}/{name}"
        self.scalers = f"/apis/{API_VERSION}/namespaces/{namespace}/diffusionpipelinerolescalers"
        self.stateful_sets = f"/apis/apps/v1/namespaces/{namespace}/statefulsets"
        self.core = f"/api/v1/namespaces/{namespace}"

    def resource(self, spec: Mapping[str, Any]) -> JSON:
        return {
            "apiVersion": API_VERSION,
            "kind": "DiffusionPipeline",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": dict(spec),
        }

    def make(self, spec: Mapping[str, Any] = DIGITS, **more: Any) -> JSON:
        """Creates it, of a spec with some fields more."""
        return self.api.post(self.pipelines, self.resource({**spec, **more}))

    def edit(self, **spec: Any) -> JSON:
        """Merges fields into its spec; None takes one out."""
        return self.api.patch(self.path, {"spec": spec})

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def apply_example(self, file: str) -> None:
        self.kubectl("apply", "-f", EXAMPLES / file)

    def images(self) -> set[str]:
        """Of the containers main of which its StatefulSets make pods."""
        made = (self.stateful_set(role)["spec"]["template"]["spec"]["containers"][0] for role in ROLES)
        return {str(main["image"]) for main in made}

    def live(self) -> JSON:
        return self.api.get(self.path)

    def status(self) -> JSON:
        found: JSON = self.live().get("status", {})
        return found

    def condition(self, kind: str) -> Condition:
        """As the status has it that speaks of the present spec; Unknown while there is none."""
        live = self.live()
        for one in live.get("status", {}).get("conditions", ()):
            if one["type"] == kind and one.get("observedGeneration") == live["metadata"]["generation"]:
                return Condition(one["status"], one["reason"], one["message"])
        return Condition("Unknown", "", "")

    def until_condition(self, kind: str, status: str, reason: str, words: str = "", seconds: float = 30) -> Condition:
        """Waits for a condition, whose message has these words."""

        def holds() -> bool:
            found = self.condition(kind)
            return (found.status, found.reason) == (status, reason) and words in found.message

        try:
            self.cluster.until(holds, seconds, f"{kind} of {self.name} is {status}, {reason}: {words}")
        except ClusterError as late:
            late.add_note(json.dumps(self.status(), indent=1))
            raise
        return self.condition(kind)

    def until_ready(self, seconds: float = 30) -> None:
        self.until_condition("Ready", "True", "Ready", seconds=seconds)

    def columns(self, *flags: str) -> dict[str, str]:
        """What `kubectl get dpipe` shows of it, by heading."""
        headings, *rows = self.kubectl("get", "dpipe", self.name, *flags).splitlines()
        starts = [match.start() for match in re.finditer(r"\S+", headings)]
        ends = [*starts[1:], None]
        return {headings[a:b].strip(): rows[0][a:b].strip() for a, b in zip(starts, ends, strict=True)}

    def until_shown(self, **columns: str) -> None:
        """Waits until `kubectl get dpipe` shows these values."""
        self.cluster.until(lambda: columns.items() <= self.columns().items(), 30, f"{self.name} shows {columns}")

    def stateful_set(self, role: str) -> JSON:
        return self.api.get(f"{self.stateful_sets}/{self.name}-{role}")

    def counts(self) -> dict[str, int]:
        """The replicas of each role's StatefulSet."""
        found = self.api.items(self.stateful_sets, labelSelector=f"{LABEL}={self.name}")
        return {one["metadata"]["labels"]["diffusion-operator.dev/role"]: one["spec"]["replicas"] for one in found}

    def until_counts(self, seconds: float = 30, **counts: int) -> None:
        """Waits until these roles have so many replicas, and all others one."""
        wanted = dict.fromkeys(ROLES, 1) | counts
        self.cluster.until(lambda: self.counts() == wanted, seconds, f"{self.name} has {wanted}")

    def pods(self, role: str) -> list[JSON]:
        selector = f"{LABEL}={self.name},diffusion-operator.dev/role={role}"
        return self.api.items(f"{self.core}/pods", labelSelector=selector)

    def scaler(self, role: str = "denoiser") -> JSON:
        return self.api.get(f"{self.scalers}/{self.name}-{role}")

    def set_scaler(self, replicas: int, role: str = "denoiser") -> JSON:
        """As an autoscaler does it."""
        return self.api.patch(f"{self.scalers}/{self.name}-{role}/scale", {"spec": {"replicas": replicas}})

    def events(self) -> list[JSON]:
        return self.api.items(f"{self.core}/events", fieldSelector=f"involvedObject.name={self.name}")
