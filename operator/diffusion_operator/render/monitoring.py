"""The PodMonitor, by which the Prometheus operator finds the pods of a pipeline."""

from __future__ import annotations

from typing import Any

from diffusion_operator.api import Pipeline
from diffusion_operator.render import names


def pod_monitor(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": names.metadata(pipeline, pipeline.name),
        "spec": {
            "selector": {"matchLabels": {names.PIPELINE_LABEL: pipeline.name}},
            "podTargetLabels": [names.PIPELINE_LABEL, names.ROLE_LABEL],
            # A pod has one of the two.
            "podMetricsEndpoints": [{"port": port, "path": "/metrics"} for port in (names.HTTP, names.HEALTH)],
        },
    }
