"""A pipeline's status as metrics show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role

STATES: Final = ("desired", "ready", "available", "updated")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineReport:
    namespace: str
    name: str
    model: str
    transport: str
    """As the denoisers report it."""
    conditions: tuple[tuple[str, str], ...]
    """Type and status."""
    replicas: tuple[tuple[str, str, int], ...]
    """Role, state and how many."""


def report(pipeline: Pipeline, status: Mapping[str, Any]) -> PipelineReport:
    roles = status["roles"]
    return PipelineReport(
        namespace=pipeline.namespace,
        name=pipeline.name,
        model=pipeline.model.id,
        transport=roles[Role.DENOISER]["transport"],
        conditions=tuple((one["type"], one["status"]) for one in status["conditions"]),
        replicas=tuple(
            (role, state, counts.get(f"{state}Replicas", 0)) for role, counts in roles.items() for state in STATES
        ),
    )
