"""One role: whether it is as it should be, and if not, the first cause of it in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role
from diffusion_operator.status import phases, reasons
from diffusion_operator.status.observed import Observed, PodProblem, Refusal, RoleObserved
from diffusion_operator.status.wording import count, listed

NOTHING: Final = RoleObserved(
    exists=False,
    desired=0,
    replicas=0,
    ready=0,
    available=0,
    updated=0,
    current_revision="",
    update_revision="",
    observed=False,
)

# Of these the message is the same for every pod, and no log says more.
_NAMELESS: Final = {reasons.UNSCHEDULABLE, reasons.SCHEDULING_GATED}
_ORDER: Final = {reason: place for place, reason in enumerate(reasons.POD_PROBLEMS)}
_INSUFFICIENT: Final = re.compile(r"Insufficient ([\w./-]*\w)")

_REFUSAL_REMEDIES: Final = {
    reasons.NAMESPACE_POD_SECURITY: (
        "have the namespace's label pod-security.kubernetes.io/enforce allow it, or change what the pods ask for "
        "(RDMA's IPC_LOCK: spec.transport.rdma.ipcLock)"
    ),
    reasons.QUOTA_EXCEEDED: "raise the namespace's ResourceQuota, or ask for less",
}


def observed_role(pipeline: Pipeline, observed: Observed, role: Role) -> RoleObserved:
    """A colocated role has the denoiser's pods."""
    own = Role.DENOISER if pipeline.roles[role].colocated else role
    return observed.roles.get(own, NOTHING)


def with_pods(pipeline: Pipeline, observed: Observed) -> Iterator[tuple[Role, RoleObserved]]:
    """Every role that has pods of its own, router first: nothing works without it."""
    for role in (Role.ROUTER, *MODEL_ROLES):
        if not pipeline.roles[role].colocated:
            yield role, observed_role(pipeline, observed, role)


def workers(pipeline: Pipeline, observed: Observed) -> Iterator[tuple[Role, RoleObserved]]:
    return ((role, seen) for role, seen in with_pods(pipeline, observed) if role is not Role.ROUTER)


def is_done(seen: RoleObserved) -> bool:
    """All pods that are wanted are ready, and of the latest template but for those that the user holds back."""
    return seen.exists and seen.observed and seen.ready >= seen.desired and seen.updated >= seen.desired - seen.held


def cause(pipeline: Pipeline, observed: Observed, role: Role) -> str:
    """What keeps the role from being done; empty if nothing does."""
    seen = observed_role(pipeline, observed, role)
    if is_done(seen):
        return ""
    if not seen.exists:
        return "its StatefulSet does not exist yet"
    if (refused := refusal(seen)) is not None:
        return refusal_text(seen, refused)
    if observed.cache_fault and role is not Role.ROUTER:
        # The scheduler's word for it, if it comes to that, is an affinity that no node meets.
        return observed.cache_fault
    if seen.problems:
        return problem_text(pipeline, observed, seen.problems)
    return _what_is_to_come(seen)


def has_obstacle(seen: RoleObserved) -> bool:
    """Whether something is wrong, as opposed to merely not done."""
    return not is_done(seen) and (bool(seen.problems) or refusal(seen) is not None)


def refusal(seen: RoleObserved) -> Refusal | None:
    """Why pods are missing."""
    if seen.replicas >= seen.desired or not seen.refusals:
        return None
    return min(seen.refusals, key=lambda one: (reasons.REFUSALS.index(one.reason), one.message))


def refusal_text(seen: RoleObserved, refused: Refusal) -> str:
    text = f"{count(seen.desired - seen.replicas, 'pod')} refused, {refused.reason}: {refused.message}"
    remedy = _REFUSAL_REMEDIES.get(refused.reason)
    return f"{text}: {remedy}" if remedy else text


def problems_of(seen: RoleObserved, among: Collection[str]) -> tuple[PodProblem, ...]:
    """The problems that have one of the reasons `among`, if they keep the role from being done."""
    return () if is_done(seen) else tuple(problem for problem in seen.problems if problem.reason in among)


def first(problems: tuple[PodProblem, ...]) -> PodProblem:
    """The one to tell of: the worst, and among equals of the first pod."""
    return min(problems, key=lambda problem: (_ORDER.get(problem.reason, len(_ORDER)), problem.pod))


def problem_text(pipeline: Pipeline, observed: Observed, problems: tuple[PodProblem, ...]) -> str:
    """`2 pods Unschedulable: 0/5 nodes are available: 5 Insufficient rdma/hca`"""
    told = first(problems)
    alike = sum(problem.reason == told.reason for problem in problems)
    text = f"{count(alike, 'pod')} {told.reason}"
    if told.reason not in _NAMELESS:
        text += f" ({told.pod})" if alike == 1 else f" (first {told.pod})"
    text += f": {told.message}{_offers(pipeline, observed, told)}"
    others = len(problems) - alike
    return f"{text}; {count(others, 'pod')} with other problems" if others else text


def insufficient(problem: PodProblem) -> tuple[str, ...]:
    """Resources that the scheduler found too little of."""
    return tuple(sorted(set(_INSUFFICIENT.findall(problem.message))))


def _offers(pipeline: Pipeline, observed: Observed, problem: PodProblem) -> str:
    """A resource that no node has looks like a full cluster; so what nodes have is told with it."""
    rdma, offered = pipeline.transport.rdma, observed.rdma_resources
    if problem.reason != reasons.UNSCHEDULABLE or rdma is None or offered is None:
        return ""
    missing = [name for name in rdma.resources if name in insufficient(problem) and name not in offered]
    if not missing:
        return ""
    name, field = listed(missing), "resourceName" if len(rdma.resources) == 1 else "resourceNames"
    if not offered:
        return f"; no node offers {name} or any other RDMA resource: is the RDMA device plugin installed?"
    return f"; no node offers {name}, they offer {listed(sorted(offered))}: mend spec.transport.rdma.{field}"


def _how_far(seen: RoleObserved) -> str:
    told = [f"{number} {phases.WORDS[phase]}" for phase, number in seen.starting.items()]
    return f" ({', '.join(told)})" if told else ""


def _what_is_to_come(seen: RoleObserved) -> str:
    if not seen.observed:
        return "the StatefulSet controller has not seen the latest change yet"
    parts = []
    if missing := max(0, seen.desired - seen.replicas):
        parts.append(f"{count(missing, 'pod')} not created yet")
    if starting := max(0, min(seen.replicas, seen.desired) - seen.ready):
        parts.append(f"{count(starting, 'pod')} starting{_how_far(seen)}")
    if not parts:
        parts.append(f"{count(seen.desired - seen.held - seen.updated, 'pod')} not updated yet")
    return listed(parts)
