"""The status of a role scaler: what an autoscaler reads through its `/scale`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, condition, false, time_text, true
from diffusion_operator.status.observed import RoleObserved
from diffusion_operator.status.selector import selector_text


def scaler_status(
    pipeline: Pipeline, role: Role, seen: RoleObserved, scaler: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The whole status of `scaler`, the live object, which belongs to the pipeline.

    Replicas are those that the selector selects: an autoscaler divides by them what it measures.
    """
    generation, previous = scaler["metadata"]["generation"], scaler.get("status")
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "replicas": seen.replicas,
        "selector": selector_text(pipeline, role),
        "conditions": [
            condition(reasons.BOUND, _bound(pipeline, role), generation=generation, previous=previous, now=now)
        ],
    }
    before = previous or {}
    if before.get("replicas", seen.replicas) != seen.replicas:
        status["lastScaleTime"] = time_text(now)
    elif "lastScaleTime" in before:
        status["lastScaleTime"] = before["lastScaleTime"]
    return status


def _bound(pipeline: Pipeline, role: Role) -> Finding:
    if not pipeline.roles[role].external:
        return false(
            reasons.NOT_EXTERNAL,
            f"DiffusionPipeline {pipeline.name} decides itself: set spec.roles.{role}.scaling.mode to External",
        )
    if pipeline.suspended:
        return false(
            reasons.SUSPENDED, f"DiffusionPipeline {pipeline.name} is suspended: {role} has no pods until it is resumed"
        )
    return true(reasons.FOLLOWED, f"{role} of DiffusionPipeline {pipeline.name} has the replicas that are set here")
