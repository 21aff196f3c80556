"""All that was observed of a pipeline, as its `.status`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names
from diffusion_operator.status import reasons
from diffusion_operator.status.conditions import find_all
from diffusion_operator.status.finding import (
    Finding,
    condition,
    conditions_by_type,
    false,
    time_text,
    true,
    unknown,
)
from diffusion_operator.status.observed import Observed
from diffusion_operator.status.peers import counted, generation_id, transport_of
from diffusion_operator.status.roles import cause, observed_role, with_pods
from diffusion_operator.status.selector import selector_text
from diffusion_operator.status.wording import clip


def summarise(
    pipeline: Pipeline, observed: Observed, previous: Mapping[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """The whole status. `previous` is the one that is written now; what did not change is taken from it unchanged."""
    found = find_all(pipeline, observed, previous, now)
    ready_peers, expected_peers = counted(pipeline, observed)
    status: dict[str, Any] = {
        "observedGeneration": observed.generation,
        "phase": _phase(pipeline, observed, found),
        "conditions": [
            condition(kind, one, generation=observed.generation, previous=previous, now=now)
            for kind, one in found.items()
        ],
        "roles": {role.value: _role_status(pipeline, observed, role) for role in Role},
        "router": {
            "endpoint": f"http://{names.api_service(pipeline)}.{pipeline.namespace}.svc:{pipeline.router.http_port}",
            "readyPeers": ready_peers,
            "expectedPeers": expected_peers,
        },
        "summary": {role.value: _summary(pipeline, observed, role) for role in Role},
    }
    if (seen := observed.update) is not None:
        status["update"] = {"operator": seen.operator, "current": seen.current}
        if seen.available:
            status["update"]["available"] = seen.available
        if seen.surge is not None:
            status["update"]["surge"] = {
                "digest": seen.surge.digest,
                "generation": seen.surge.generation,
                "percent": seen.surge.percent,
                "since": time_text(seen.surge.since),
            }
    if generation := generation_id(pipeline, observed):
        status["generationId"] = generation
    return status


def invalid(resource: Mapping[str, Any], message: str, now: datetime) -> dict[str, Any]:
    """The status of a resource that can't be understood, such as one stored before a rule of today was made.

    Its children run on as they are, so what was said of them before stays.
    """
    previous, generation = resource.get("status") or {}, resource["metadata"]["generation"]
    found = false(reasons.INVALID_SPEC, "; ".join(message.splitlines()))
    findings = {
        reasons.READY: found,
        reasons.RECONCILED: found,
        reasons.RECONCILING: found,
        reasons.STALLED: true(found.reason, found.message),
    }
    kept = conditions_by_type(previous)
    # The definition's defaults, which say that no operator has seen it.
    unseen = [kind for kind, one in kept.items() if one.get("observedGeneration", 0) < 0]
    findings = dict.fromkeys(unseen, unknown(found.reason, found.message)) | findings
    told = {
        kind: condition(kind, one, generation=generation, previous=previous, now=now) for kind, one in findings.items()
    }
    return {
        **previous,
        "observedGeneration": generation,
        "phase": "Failed",
        "conditions": [{**kept, **told}[kind] for kind in reasons.CONDITIONS if kind in kept or kind in told],
    }


def _role_status(pipeline: Pipeline, observed: Observed, role: Role) -> dict[str, Any]:
    seen = observed_role(pipeline, observed, role)
    status: dict[str, Any] = {
        "desiredReplicas": seen.desired,
        "replicas": seen.replicas,
        "readyReplicas": seen.ready,
        "availableReplicas": seen.available,
        "updatedReplicas": seen.updated,
        "selector": selector_text(pipeline, role),
    }
    if seen.starting:
        status["starting"] = {phase.value: number for phase, number in seen.starting.items()}
    if seen.current_revision:
        status["currentRevision"] = seen.current_revision
    if seen.update_revision:
        status["updateRevision"] = seen.update_revision
    if role is not Role.ROUTER:
        status["transport"] = transport_of(observed, role)
    if message := cause(pipeline, observed, role):
        status["message"] = clip(message)
    return status


def _summary(pipeline: Pipeline, observed: Observed, role: Role) -> str:
    seen = observed_role(pipeline, observed, role)
    return f"{seen.ready}/{seen.desired}"


def _phase(pipeline: Pipeline, observed: Observed, found: Mapping[str, Finding]) -> str:
    if pipeline.suspended:
        return "Suspended"
    if found[reasons.READY].status == "True":
        return "Ready"
    reconciled, progressing = found[reasons.RECONCILED].status == "True", found[reasons.PROGRESSING]
    if found[reasons.AVAILABLE].status == "True":
        return "Progressing" if reconciled and progressing.status == "True" else "Degraded"
    given_up = progressing.reason == reasons.PROGRESS_DEADLINE_EXCEEDED
    refused = any(found[kind].status == "False" for kind in (reasons.MODEL_READY, reasons.TRANSPORT_READY))
    if not reconciled or given_up or refused:
        return "Failed"
    if progressing.status == "True":
        none_ready = not any(seen.ready for _, seen in with_pods(pipeline, observed))
        return "Pending" if none_ready else "Progressing"
    return "Degraded"
