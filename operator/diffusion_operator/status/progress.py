"""Progressing: whether a rollout or a change of scale is under way.

A pod that fails later is no rollout: a role that had all its pods once stays complete until other pods are asked for.
What was once complete, and when the present rollout began, is in the status that was written before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, conditions_by_type, false, parse_time, true
from diffusion_operator.status.observed import Observed, RoleObserved
from diffusion_operator.status.roles import cause, with_pods
from diffusion_operator.status.wording import count

_REASONS: Final = (reasons.ROLLING_OUT, reasons.SCALING, reasons.STARTING)
"""The first that holds for any role is told."""


def progressing(pipeline: Pipeline, observed: Observed, previous: Mapping[str, Any] | None, now: datetime) -> Finding:
    if pipeline.suspended:
        return _suspending(pipeline, observed)
    before = conditions_by_type(previous).get(reasons.PROGRESSING)
    settled = before is not None and before["reason"] in (reasons.COMPLETE, reasons.PAUSED)
    moving: dict[Role, str] = {}
    for role, seen in with_pods(pipeline, observed):
        was = _role_before(previous, role)
        reason = _movement(seen, started_before=settled and not _asked_anew(seen, was))
        if reason is not None:
            moving[role] = reason
    if not moving:
        return _surging(observed) or _at_rest(pipeline, observed)
    if _is_overdue(pipeline, observed, moving, previous, now):
        texts = (f"{role}: {cause(pipeline, observed, role)}" for role in moving)
        return false(reasons.PROGRESS_DEADLINE_EXCEEDED, f"not done when its time was over; {'; '.join(texts)}")
    reason = min(moving.values(), key=_REASONS.index)
    seen_of = dict(with_pods(pipeline, observed))
    return true(reason, "; ".join(_movement_text(role, seen_of[role], one) for role, one in moving.items()))


def _surging(observed: Observed) -> Finding | None:
    surge = observed.update.surge if observed.update is not None else None
    if surge is None:
        return None
    waits = f": {surge.waits}" if surge.waits else ""
    return true(reasons.SURGING, f"generation {surge.generation} takes {surge.percent} % of new jobs{waits}")


def _suspending(pipeline: Pipeline, observed: Observed) -> Finding:
    left = sum(seen.replicas for _, seen in with_pods(pipeline, observed))
    if left:
        return true(reasons.SUSPENDING, f"{count(left, 'pod')} still there")
    return false(reasons.SUSPENDED, "spec.suspend is true: no role has pods")


def _movement(seen: RoleObserved, *, started_before: bool) -> str | None:
    if not seen.exists or not seen.observed:
        return reasons.ROLLING_OUT
    if seen.update_revision != seen.current_revision and seen.updated < seen.desired - seen.held:
        return reasons.ROLLING_OUT
    if seen.replicas != seen.desired:
        return reasons.SCALING
    if seen.updated < seen.desired - seen.held:
        return reasons.ROLLING_OUT
    if seen.ready < seen.desired and not started_before:
        return reasons.STARTING
    return None


def _movement_text(role: Role, seen: RoleObserved, reason: str) -> str:
    match reason:
        case reasons.SCALING:
            return f"{role}: {seen.replicas} of {count(seen.desired, 'pod')} there"
        case reasons.STARTING:
            return f"{role}: {seen.ready} of {count(seen.desired, 'pod')} ready"
        case _ if not seen.exists:
            return f"{role}: its StatefulSet does not exist yet"
        case _ if not seen.observed:
            return f"{role}: the StatefulSet controller has not seen the latest change yet"
        case _:
            return f"{role}: {seen.updated} of {count(seen.desired - seen.held, 'pod')} updated"


def _at_rest(pipeline: Pipeline, observed: Observed) -> Finding:
    held = [
        f"{role}: {count(seen.desired - seen.updated, 'pod')}"
        for role, seen in with_pods(pipeline, observed)
        if seen.updated < seen.desired
    ]
    if held:
        return false(reasons.PAUSED, f"pods that updateStrategy leaves at the revision before: {'; '.join(held)}")
    return false(reasons.COMPLETE, "every role has the pods that are asked for")


def _is_overdue(
    pipeline: Pipeline,
    observed: Observed,
    moving: Mapping[Role, str],
    previous: Mapping[str, Any] | None,
    now: datetime,
) -> bool:
    before = conditions_by_type(previous).get(reasons.PROGRESSING)
    if before is None:
        return False
    if before["status"] == "False":
        # Once late, it has all its time again when it moves.
        late: bool = before["reason"] == reasons.PROGRESS_DEADLINE_EXCEEDED
        return late and not _has_advanced(pipeline, observed, previous)
    allowed = max(_seconds_allowed(pipeline, observed, role) for role in moving)
    return now - parse_time(before["lastTransitionTime"]) > timedelta(seconds=allowed)


def _seconds_allowed(pipeline: Pipeline, observed: Observed, role: Role) -> int:
    """Pods that are new start together, those of a rollout one after another."""
    seen = observed.roles.get(role)
    one_by_one = seen is not None and seen.update_revision != seen.current_revision
    return pipeline.roles[role].startup_seconds * (max(1, seen.desired) if seen and one_by_one else 1)


def _has_advanced(pipeline: Pipeline, observed: Observed, previous: Mapping[str, Any] | None) -> bool:
    for role, seen in with_pods(pipeline, observed):
        was = _role_before(previous, role)
        if _asked_anew(seen, was) or seen.ready > was["readyReplicas"] or seen.updated > was["updatedReplicas"]:
            return True
    return False


def _role_before(previous: Mapping[str, Any] | None, role: Role) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ((previous or {}).get("roles") or {}).get(role.value) or {}
    return found


def _asked_anew(seen: RoleObserved, was: Mapping[str, Any]) -> bool:
    """Whether other pods are asked for than before: more, fewer, or of another template."""
    return seen.desired != was.get("desiredReplicas") or seen.update_revision != was.get("updateRevision", "")
