"""The status of a ModelCache: on how many nodes each role's share is, and what keeps it from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from diffusion_operator.api import Role
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, condition, false, true
from diffusion_operator.status.observed import Fault, PodProblem, Refusal
from diffusion_operator.status.wording import clip, count

PULLS_LATER: Final = "no node has its labels, or takes its pods: label nodes, or change nodeSelector and tolerations"


@dataclass(frozen=True, kw_only=True)
class Share:
    """One role's DaemonSet and its pods."""

    observed: bool
    """Its controller has seen the current spec: the counts speak of it."""
    nodes: int
    ready: int
    """Of its current revision."""
    problems: tuple[PodProblem, ...] = ()
    refusal: Refusal | None = None


def share(daemon_set: Mapping[str, Any], problems: tuple[PodProblem, ...], refusal: Refusal | None) -> Share:
    status = daemon_set.get("status", {})
    nodes, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    ready = min(status.get("numberReady", 0), updated)
    made = status.get("currentNumberScheduled", 0)
    return Share(
        observed=status.get("observedGeneration") == daemon_set["metadata"]["generation"],
        nodes=nodes,
        ready=ready,
        problems=problems if ready < nodes else (),
        # Events outlive what they tell of.
        refusal=refusal if made < nodes else None,
    )


def cache_status(
    resource: Mapping[str, Any], path: str, shares: Mapping[Role, Share], faults: tuple[Fault, ...], now: datetime
) -> dict[str, Any]:
    """`path`: the folder of nodes; empty: it is not known, since the resource can't be read."""
    ready = _ready(shares, faults)
    stalled = _stalled(ready)
    reconciling = (
        false(ready.reason, ready.message)
        if ready.status == "True" or stalled.status == "True"
        else true(ready.reason, ready.message)
    )
    generation, previous = resource["metadata"]["generation"], resource.get("status")
    found = {reasons.READY: ready, reasons.RECONCILING: reconciling, reasons.STALLED: stalled}
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "roles": {role.value: _role(role, one) for role, one in shares.items()},
        "conditions": [
            condition(kind, found[kind], generation=generation, previous=previous, now=now)
            for kind in reasons.CACHE_CONDITIONS
        ],
    }
    return status | ({"path": path} if path else {})


def _ready(shares: Mapping[Role, Share], faults: tuple[Fault, ...]) -> Finding:
    if faults:
        return false(faults[0].reason, faults[0].message)
    for role, one in shares.items():
        if one.refusal is not None:
            return false(one.refusal.reason, f"{role}: {one.refusal.message}")
    problems = [(one, role) for role, found in shares.items() for one in found.problems]
    if problems:
        worst, role = min(problems, key=lambda found: _order(found[0]))
        return false(worst.reason, f"{role}: {worst.pod}: {worst.message}")
    if any(not one.observed for one in shares.values()):
        return false(reasons.PULLING, "the DaemonSet controller has not seen the latest change yet")
    for role, one in shares.items():
        if not one.nodes:
            return false(reasons.NO_NODES, f"{role}: {PULLS_LATER}")
    behind = [f"{role} on {one.ready} of {count(one.nodes, 'node')}" for role, one in shares.items() if _is_behind(one)]
    if behind:
        return false(reasons.PULLING, ", ".join(behind))
    return true(reasons.PULLED, ", ".join(f"{role} on {count(one.nodes, 'node')}" for role, one in shares.items()))


def _order(problem: PodProblem) -> tuple[int, str]:
    known = problem.reason in reasons.POD_PROBLEMS
    return reasons.POD_PROBLEMS.index(problem.reason) if known else len(reasons.POD_PROBLEMS), problem.pod


def _is_behind(one: Share) -> bool:
    return one.ready < one.nodes


def _stalled(ready: Finding) -> Finding:
    if ready.reason in reasons.CACHE_CONDITIONS[reasons.STALLED]:
        return true(ready.reason, ready.message)
    return false(reasons.NO_FAULT, "nothing is known that would keep nodes from having it")


def _role(role: Role, one: Share) -> dict[str, Any]:
    found: dict[str, Any] = {"nodes": one.nodes, "readyNodes": one.ready, "summary": f"{one.ready}/{one.nodes}"}
    said = [one.refusal.message] if one.refusal is not None else []
    said += [f"{each.pod}: {each.message}" for each in one.problems]
    return found | ({"message": clip("; ".join(said))} if said else {})
