"""The conditions of a pipeline that Kubernetes alone can tell of, and Ready, which sums all up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role
from diffusion_operator.render import names
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, false, true, unknown
from diffusion_operator.status.kstatus import reconciling, stalled
from diffusion_operator.status.observed import Observed, PeerSeen
from diffusion_operator.status.peers import downloads, known_peers, no_answer, peers_registered, transport_ready
from diffusion_operator.status.progress import progressing
from diffusion_operator.status.roles import (
    cause,
    first,
    has_obstacle,
    insufficient,
    is_done,
    observed_role,
    problem_text,
    problems_of,
    refusal,
    refusal_text,
    with_pods,
    workers,
)
from diffusion_operator.status.upgrade import upgrade_available
from diffusion_operator.status.wording import listed

_NO_READY: Final = {
    Role.ENCODER: reasons.NO_READY_ENCODER,
    Role.DENOISER: reasons.NO_READY_DENOISER,
    Role.DECODER: reasons.NO_READY_DECODER,
}


def find_all(
    pipeline: Pipeline, observed: Observed, previous: Mapping[str, Any] | None, now: datetime
) -> dict[str, Finding]:
    """By type, in the order in which they are written."""
    found = {
        reasons.AVAILABLE: _available(pipeline, observed),
        reasons.PROGRESSING: progressing(pipeline, observed, previous, now),
        reasons.RECONCILED: _reconciled(observed),
        reasons.ROUTER_READY: _router_ready(pipeline, observed),
        reasons.PEERS_REGISTERED: peers_registered(pipeline, observed),
        reasons.TRANSPORT_READY: transport_ready(pipeline, observed),
        reasons.SCHEDULABLE: _schedulable(pipeline, observed),
        reasons.SCALING_READY: _scaling_ready(pipeline, observed),
        reasons.MODEL_READY: _model_ready(pipeline, observed),
    }
    found = {reasons.READY: _ready(pipeline, observed, found), **found}
    upgrade = upgrade_available(pipeline, observed)
    stands = stalled({**found, reasons.UPGRADE_AVAILABLE: upgrade})
    return {
        **found,
        reasons.RECONCILING: reconciling(found, stands),
        reasons.STALLED: stands,
        reasons.UPGRADE_AVAILABLE: upgrade,
    }


def _ready(pipeline: Pipeline, observed: Observed, found: Mapping[str, Finding]) -> Finding:
    """What stands at the root of the others is told first."""
    reconciled, peers, transport = (
        found[kind] for kind in (reasons.RECONCILED, reasons.PEERS_REGISTERED, reasons.TRANSPORT_READY)
    )
    if reconciled.status == "False":
        return reconciled
    if (stopped := _stopped(pipeline, observed)) is not None:
        return stopped
    behind = [role for role, seen in with_pods(pipeline, observed) if not is_done(seen)]
    if behind:
        return _behind(pipeline, observed, behind)
    if (idle := _idle(pipeline, observed)) is not None:
        return true(reasons.IDLE, idle)
    if peers.status == "False":
        return false(reasons.PEERS_NOT_REGISTERED, peers.message)
    if transport.status == "False":
        tolerated = transport.reason == reasons.FALLBACK_TO_TCP and pipeline.transport.fallback == "Allow"
        if not tolerated:
            return false(reasons.TRANSPORT_DEGRADED, transport.message)
        return true(reasons.READY, f"all roles are ready; {transport.message}")
    return true(reasons.READY, "all roles are ready")


def _behind(pipeline: Pipeline, observed: Observed, behind: list[Role]) -> Finding:
    # A role whose pods merely start is no cause where another's fail.
    told = next((role for role in behind if has_obstacle(observed_role(pipeline, observed, role))), behind[0])
    if told is Role.ROUTER:
        return false(reasons.ROUTER_NOT_READY, _behind_text(pipeline, observed, Role.ROUTER))
    message = _behind_text(pipeline, observed, told)
    others = [_ready_text(pipeline, observed, role) for role in behind if role is not told]
    return false(reasons.ROLES_NOT_READY, f"{message}; also {listed(others)}" if others else message)


def _behind_text(pipeline: Pipeline, observed: Observed, role: Role) -> str:
    return f"{_ready_text(pipeline, observed, role)}: {cause(pipeline, observed, role)}"


def _ready_text(pipeline: Pipeline, observed: Observed, role: Role) -> str:
    seen = observed_role(pipeline, observed, role)
    return f"{role} {seen.ready} of {seen.desired} ready"


def _stopped(pipeline: Pipeline, observed: Observed) -> Finding | None:
    """A pipeline that serves nothing because its owner said so."""
    if pipeline.suspended:
        return false(reasons.SUSPENDED, "spec.suspend is true: no role has pods")
    at_zero = [role for role in _at_zero(pipeline, observed) if not pipeline.roles[role].external]
    if not at_zero:
        return None
    where = [f"spec.roles.{role}.replicas" for role in at_zero]
    lacking = "nothing can be generated"
    if at_zero == [Role.ENCODER]:
        lacking = "nothing can be generated but from prompts that were encoded before and are kept"
    return false(reasons.ROLE_AT_ZERO, f"{listed(at_zero)} at zero replicas, so {lacking}: raise {listed(where)}")


def _idle(pipeline: Pipeline, observed: Observed) -> str | None:
    """Of a pipeline that serves once whoever scales it gives it pods again, which may be what brings the first job."""
    at_zero = _at_zero(pipeline, observed)
    if not at_zero:
        return None
    scalers = listed([names.child(pipeline, role) for role in at_zero])
    return f"{listed(at_zero)} at zero replicas as {scalers} says: jobs are taken and wait until there are pods"


def _at_zero(pipeline: Pipeline, observed: Observed) -> list[Role]:
    return [role for role, seen in with_pods(pipeline, observed) if seen.desired == 0]


def _available(pipeline: Pipeline, observed: Observed) -> Finding:
    if (stopped := _stopped(pipeline, observed)) is not None:
        return stopped
    if (idle := _idle(pipeline, observed)) is not None:
        return false(reasons.IDLE, idle)
    if observed_role(pipeline, observed, Role.ROUTER).ready == 0:
        return false(reasons.ROUTER_NOT_READY, "no router is ready")
    peers = known_peers(observed)
    for role in MODEL_ROLES:
        if observed_role(pipeline, observed, role).ready == 0:
            return false(_NO_READY[role], f"no {role} is ready")
        if peers is not None and not _generations(peers, role):
            return false(_NO_READY[role], f"no {role} that is ready is registered with the router")
    if peers is not None:
        of_role = {role: _generations(peers, role) for role in MODEL_ROLES}
        if not set.intersection(*of_role.values()):
            each = "; ".join(f"{role} {listed(sorted(found))}" for role, found in of_role.items())
            return false(reasons.GENERATION_MISMATCH, f"no generation has a ready peer of every role: {each}")
    return true(reasons.AVAILABLE, "every role has a pod that is ready")


def _generations(peers: tuple[PeerSeen, ...], role: Role) -> set[str]:
    return {peer.generation for peer in peers if role in peer.roles and peer.state == "ready"}


def _reconciled(observed: Observed) -> Finding:
    if observed.fault is not None:
        return false(observed.fault.reason, observed.fault.message)
    return true(reasons.APPLIED, "; ".join(("everything is applied", *observed.notes)))


def _router_ready(pipeline: Pipeline, observed: Observed) -> Finding:
    if pipeline.suspended:
        return false(reasons.SUSPENDED, "spec.suspend is true: the router has no pod")
    seen = observed_role(pipeline, observed, Role.ROUTER)
    if not seen.exists or seen.ready == 0 or seen.ready < seen.desired:
        return false(reasons.ROUTER_NOT_READY, _behind_text(pipeline, observed, Role.ROUTER))
    return no_answer(pipeline, observed) or true(
        reasons.REGISTRY_ANSWERS, "the router is ready and its registry answers"
    )


def _schedulable(pipeline: Pipeline, observed: Observed) -> Finding:
    for role, seen in with_pods(pipeline, observed):
        if (refused := refusal(seen)) is not None:
            return false(refused.reason, f"{role}: {refusal_text(seen, refused)}")
    for role, seen in with_pods(pipeline, observed):
        if waiting := problems_of(seen, (reasons.UNSCHEDULABLE, reasons.SCHEDULING_GATED)):
            told = first(waiting)
            reason = reasons.INSUFFICIENT_RESOURCE if insufficient(told) else told.reason
            return false(reason, f"{role}: {problem_text(pipeline, observed, waiting)}")
    return true(reasons.NONE_UNSCHEDULABLE, "no pod waits for a node")


def _scaling_ready(pipeline: Pipeline, observed: Observed) -> Finding:
    if observed.scaling_faults:
        return false(observed.scaling_faults[0].reason, "; ".join(fault.message for fault in observed.scaling_faults))
    external = [role for role, _ in workers(pipeline, observed) if pipeline.roles[role].external]
    if not external:
        return true(reasons.NO_SCALERS, "no role has scaling.mode External")
    each = [f"{role} follows {names.child(pipeline, role)}" for role in external]
    return true(reasons.SCALERS_BOUND, listed(each))


def _model_ready(pipeline: Pipeline, observed: Observed) -> Finding:
    if pipeline.suspended:
        return unknown(reasons.SUSPENDED, "spec.suspend is true: no worker loads the model")
    if observed.cache_fault and not all(is_done(seen) for _, seen in workers(pipeline, observed)):
        return false(reasons.NO_MODEL_CACHE, observed.cache_fault)
    for role, seen in workers(pipeline, observed):
        if failed := problems_of(seen, reasons.MODEL_FAULTS):
            return false(first(failed).reason, f"{role}: {problem_text(pipeline, observed, failed)}")
    loading = [role for role, seen in workers(pipeline, observed) if seen.ready == 0]
    if loading:
        message = f"no {' or '.join(loading)} has loaded the model yet"
        progress = downloads(pipeline, observed, loading)
        return unknown(reasons.LOADING, f"{message}: {progress}" if progress else message)
    return true(reasons.LOADED, "workers of every role have loaded the model")
