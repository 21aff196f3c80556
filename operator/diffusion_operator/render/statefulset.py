"""StatefulSets: one for each role that has pods of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api import Pipeline, RoleSpec
from diffusion_operator.render import names

IMMUTABLE: Final = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
"""What the API server lets nobody change in a StatefulSet."""


def stateful_set(
    pipeline: Pipeline,
    spec: RoleSpec,
    *,
    replicas: int,
    template: Mapping[str, Any],
    claims: Mapping[str, Any],
    track: str = "",
) -> dict[str, Any]:
    name = names.child(pipeline, spec.role, track)
    metadata = names.metadata(pipeline, name, spec.role)
    if track:
        template = with_labels(template, {names.TRACK_LABEL: track})
        metadata = with_labels({"metadata": metadata}, {names.TRACK_LABEL: track})["metadata"]
    found = {
        "replicas": replicas,
        # One for both tracks: its name is in the names of pods.
        "serviceName": names.child(pipeline, spec.role),
        # Workers do not depend on one another's order, and a start one by one would multiply the time to load.
        "podManagementPolicy": "Parallel",
        "updateStrategy": _update_strategy(spec),
        "selector": {"matchLabels": names.selector(pipeline, spec.role, track)},
        "template": template,
        **claims,
    }
    if spec.min_ready_seconds:
        found["minReadySeconds"] = spec.min_ready_seconds
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": found,
    }


def with_labels(item: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    metadata = item["metadata"]
    return {**item, "metadata": {**metadata, "labels": {**metadata["labels"], **labels}}}


def _update_strategy(spec: RoleSpec) -> dict[str, Any]:
    update = spec.update
    if update.type == "OnDelete":
        return {"type": "OnDelete"}
    rolling: dict[str, Any] = {"partition": update.partition}
    if update.max_unavailable != 1:
        # API servers without the feature drop the field, and one that is always asked for would always be missing.
        rolling["maxUnavailable"] = update.max_unavailable
    return {"type": "RollingUpdate", "rollingUpdate": rolling}
