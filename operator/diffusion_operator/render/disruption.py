"""Disruption budgets: how many pods of a role a node drain may take at once."""

from __future__ import annotations

from typing import Any

from diffusion_operator.api import Pipeline, RoleSpec
from diffusion_operator.render import names


def disruption_budget(pipeline: Pipeline, spec: RoleSpec) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": names.metadata(pipeline, names.child(pipeline, spec.role), spec.role),
        "spec": {
            "maxUnavailable": spec.disruption.max_unavailable,
            "selector": {"matchLabels": names.selector(pipeline, spec.role)},
            # A pod that is not ready serves nobody, and must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
