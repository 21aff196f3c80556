"""A role's StatefulSet as the few numbers that a status is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffusion_operator.render import names
from diffusion_operator.status.observed import PodProblem, Refusal, RoleObserved
from diffusion_operator.status.phases import Phase


def role(
    stateful_set: Mapping[str, Any] | None,
    desired: int,
    problems: Iterable[PodProblem] = (),
    refusals: Iterable[Refusal] = (),
    starting: Mapping[Phase, int] | None = None,
) -> RoleObserved:
    """`stateful_set` is None where there is none (yet). `desired`: pods that the resource, or a scaler, asks for."""
    live = stateful_set or {}
    metadata, spec, status = live.get("metadata", {}), live.get("spec", {}), live.get("status", {})
    labels = spec.get("template", {}).get("metadata", {}).get("labels") or {}
    return RoleObserved(
        exists=stateful_set is not None,
        desired=desired,
        replicas=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        current_revision=status.get("currentRevision", ""),
        update_revision=status.get("updateRevision", ""),
        observed=stateful_set is not None and status.get("observedGeneration", 0) >= metadata.get("generation", 0),
        problems=tuple(sorted(problems, key=lambda problem: problem.pod)),
        starting=starting or {},
        refusals=tuple(sorted(refusals, key=lambda refusal: (refusal.reason, refusal.message))),
        held=_held(spec.get("updateStrategy") or {}, desired),
        generation=labels.get(names.GENERATION_LABEL, ""),
    )


def _held(strategy: Mapping[str, Any], desired: int) -> int:
    if strategy.get("type") == "OnDelete":
        return desired
    partition: int = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    return min(partition, desired)
