"""A plan in words, for a terminal; and as data, for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from diffusion_operator.status.wording import count
from dpipe.changes.plan import Plan, RolePlan


def told(plans: Sequence[Plan]) -> Iterator[str]:
    """Lines of text."""
    for plan in plans:
        yield (
            f"{plan.namespace}/{plan.name}: {', '.join(plan.edits)}" if plan.edits else f"{plan.namespace}/{plan.name}"
        )
        if plan.is_empty:
            yield "  nothing changes"
        for role in plan.roles:
            yield f"  {role.workload}: {'; '.join(_pods(role))}"
            yield from (f"      {path}" for path in role.why)
        yield from (f"  {other}" for other in plan.others)
        yield from (f"  refused: {field} can't be changed" for field in plan.refused)
        yield from (f"  warning: {warning}" for warning in plan.warnings)
    if any(role.replaced for plan in plans for role in plan.roles):
        yield "All roles begin at once. What a pod computes may take as long again as drainTimeoutSeconds says."


def as_data(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    return [
        {
            **asdict(plan),
            "roles": [
                {**asdict(role), "seconds": role.seconds, "bound_seconds": role.bound_seconds} for role in plan.roles
            ],
        }
        for plan in plans
    ]


def _pods(role: RolePlan) -> Iterator[str]:
    if role.replaced:
        how = "beside those that run" if role.beside else f"{role.at_once} at once"
        yield f"{role.replaced} of {count(role.before, 'pod')} replaced, {how}"
    if role.held:
        yield f"{count(role.held, 'pod')} of another template, held by spec.roles.*.updateStrategy"
    if role.before != role.after:
        yield f"{role.before} -> {count(role.after, 'pod')}"
    if role.batches:
        yield _time(role)


def _time(role: RolePlan) -> str:
    if role.seconds is None:
        return f"not known how long a start takes; no longer than {_spoken(role.bound_seconds)}"
    each = f" ({role.batches} x {_spoken(role.start_seconds or 0)})" if role.batches > 1 else ""
    return f"about {_spoken(role.seconds)}{each}, as such pods took until now"


def _spoken(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
