"""What keeps a pod from being ready, out of the Pod as the cluster shows it.

A container that fails goes round: it waits for its next start, starts, runs for a while, ends. The answer has to be the
same all the way round, or the status would be written at every turn; so a container that ended stays one that crashed
until the pod is ready, and of how it ended only what does not change by itself is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from diffusion_operator.render import names
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import PodProblem
from diffusion_operator.status.wording import detail
from diffusionpipeline.lastwords import last_words
from diffusionpipeline.words import (
    EXIT_DOWNLOAD,
    EXIT_FAILED,
    EXIT_INCOMPATIBLE,
    EXIT_MODEL,
    EXIT_STALLED,
    EXIT_TRANSPORT,
)

Object = Mapping[str, Any]

_EXIT_CODES: Final = {
    EXIT_MODEL: reasons.MODEL_FAILED,
    EXIT_INCOMPATIBLE: reasons.INCOMPATIBLE,
    EXIT_TRANSPORT: reasons.TRANSPORT_FAILED,
    EXIT_STALLED: reasons.STALLED,
    EXIT_DOWNLOAD: reasons.DOWNLOAD_FAILED,
}
_SIGNAL_BASE: Final = 128

_IMAGE_REASONS: Final = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_CREATE_REASONS: Final = {
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
    "CreatePodSandboxError",
    "ConfigPodSandboxError",
}
_START_FAILED: Final = {"StartError", "ContainerCannotRun"}
_FAILED_PODS: Final = {reasons.ADMISSION, reasons.EVICTED}

# While the kubelet backs off it repeats what the attempt before said, behind words of its own.
_PULL_PREFIX: Final = re.compile(
    r'^(Back-off pulling image "[^"]*"(: )?)?((ErrImagePull|RegistryUnavailable|SignatureValidationFailed): )?'
    r"(rpc error: code = \w+ desc = )?"
)
_PREEMPTION: Final = re.compile(r"\s*preemption: .*$", re.DOTALL)
_DOWNLOAD: Final = re.compile(
    r"huggingface|hugging face|\bhub\b|gated repo|repository not found|"
    r"client error|server error|revision not found|name resolution|offline mode",
    re.IGNORECASE,
)
_NO_SPACE: Final = re.compile(r"no space left|disk quota exceeded|not enough (free )?disk", re.IGNORECASE)


def problem(pod: Object) -> PodProblem | None:
    """None: the pod is ready, is on its way to it, or is leaving and can."""
    metadata, status = pod["metadata"], pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return None
    conditions = {found["type"]: found for found in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True":
        return None
    if "deletionTimestamp" in metadata:
        # Nothing can end a pod on a node that is silent, and no other takes its place before it has ended.
        found = _node_lost(status, ready)
    else:
        found = (
            _failed(status)
            or _unschedulable(pod, conditions)
            or _unclaimed(pod)
            or _of_containers(pod)
            or _node_lost(status, ready)
            or _lost_readiness(status, ready)
        )
    if found is None:
        return None
    reason, message = found
    return PodProblem(pod=metadata["name"], reason=reason, message=message)


Found = tuple[str, str]
"""Reason and message."""


def _failed(status: Object) -> Found | None:
    if status.get("phase") != "Failed":
        return None
    reason, message = status.get("reason") or "", detail(status.get("message") or "")
    if reason in _FAILED_PODS:
        return reason, message or "the node turned the pod away"
    return reasons.POD_FAILED, ": ".join(filter(None, (reason, message))) or "the pod failed without saying why"


def _unschedulable(pod: Object, conditions: Mapping[str, Object]) -> Found | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") != "False":
        return None
    if scheduled.get("reason") == reasons.SCHEDULING_GATED:
        gates = sorted(gate["name"] for gate in pod.get("spec", {}).get("schedulingGates") or ())
        return reasons.SCHEDULING_GATED, f"waits until its scheduling gates are lifted: {', '.join(gates)}"
    message = detail(_PREEMPTION.sub("", scheduled.get("message") or ""))
    return reasons.UNSCHEDULABLE, message or "the scheduler has found no node"


def _unclaimed(pod: Object) -> Found | None:
    """The scheduler does not look at a pod before its claims are made of their templates, and says nothing of it."""
    spec = pod.get("spec", {})
    made = {status["name"] for status in pod.get("status", {}).get("resourceClaimStatuses") or ()}
    for claim in spec.get("resourceClaims") or ():
        template = claim.get("resourceClaimTemplateName")
        if template and claim["name"] not in made and not spec.get("nodeName"):
            return (
                reasons.UNSCHEDULABLE,
                f"its claim {claim['name']} is not made yet of ResourceClaimTemplate {template}: see that there is one "
                "in this namespace",
            )
    return None


def _node_lost(status: Object, ready: Object) -> Found | None:
    """For a kubelet that is silent, the node's controller turns the pod's condition and nothing else."""
    containers = status.get("containerStatuses") or ()
    if not ready or ready.get("reason") == "ReadinessGatesNotReady":
        return None
    if not containers or not all(container.get("ready") for container in containers):
        return None
    return reasons.NODE_LOST, "its node is silent; the pod is made anew once the node is back, or deleted"


def _of_containers(pod: Object) -> Found | None:
    for spec, status in _containers(pod):
        found = _waiting(spec, status) or _ended(spec, status)
        if found is not None:
            return found
    return None


def _containers(pod: Object) -> Iterator[tuple[Object, Object]]:
    """Spec and status: init containers in their order, then main, then its sidecars."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    specs = {item["name"]: item for key in ("initContainers", "containers") for item in spec.get(key) or ()}
    beside = status.get("containerStatuses") or ()
    for item in (*(status.get("initContainerStatuses") or ()), *sorted(beside, key=_main_first)):
        yield specs.get(item["name"], item), item


def _main_first(status: Object) -> tuple[bool, str]:
    return status["name"] != names.MAIN, status["name"]


def _waiting(spec: Object, status: Object) -> Found | None:
    waiting = status.get("state", {}).get("waiting") or {}
    reason, said = waiting.get("reason", ""), waiting.get("message") or ""
    name, image = spec["name"], spec.get("image", "")
    if reason == "InvalidImageName":
        return reasons.INVALID_IMAGE, f"{name}: {image!r} is no name of an image: mend spec.image"
    if reason in _IMAGE_REASONS:
        return reasons.IMAGE_PULL, _told(f"{name}: image {image} can't be pulled", _PULL_PREFIX.sub("", said, count=1))
    if reason == "CreateContainerConfigError":
        return reasons.CREATE_CONTAINER_CONFIG, _told(f"{name} can't be configured", said)
    if reason in _CREATE_REASONS:
        return reasons.CREATE_CONTAINER, _told(f"{name} can't be started", said)
    return None


def _ended(spec: Object, status: Object) -> Found | None:
    """How a container that is not ready ended last, if it ever did."""
    if status.get("ready"):
        return None
    state, last = status.get("state", {}), status.get("lastState") or {}
    ended = state.get("terminated") or last.get("terminated")
    if ended is None:
        return None
    code, name = ended.get("exitCode", 0), spec["name"]
    if code == 0 and not status.get("restartCount"):
        # An init container that did its work, or a process that is about to be started again.
        return None
    if ended.get("reason") == reasons.OUT_OF_MEMORY:
        return reasons.OUT_OF_MEMORY, _out_of_memory(spec)
    if ended.get("reason") in _START_FAILED:
        return reasons.CREATE_CONTAINER, _told(f"{name} can't be started", ended.get("message") or "")
    said = last_words(ended.get("message") or "")
    ours = name in (names.MAIN, names.PULL)
    if ours and code in _EXIT_CODES:
        reason = _EXIT_CODES[code]
        if reason == reasons.MODEL_FAILED and _NO_SPACE.search(said):
            reason = reasons.NO_SPACE
        return reason, detail(said) or f"{name} ended with exit code {code} without saying why"
    if ours and _NO_SPACE.search(said):
        return reasons.NO_SPACE, detail(said)
    if name == names.MAIN and code == EXIT_FAILED and _DOWNLOAD.search(said):
        # Workers of earlier versions, which a pipeline keeps until it is told to move, have no code for it.
        return reasons.DOWNLOAD_FAILED, detail(said)
    return reasons.CRASH_LOOP, _told(f"{name} {_how(code)}", said)


def _out_of_memory(spec: Object) -> str:
    limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    if limit is None:
        return f"{spec['name']} was killed because its node ran out of memory: give the role a memory request"
    return f"{spec['name']} was killed at its memory limit of {limit}: raise the role's resources.limits.memory"


def _how(code: int) -> str:
    if code == 0:
        return "ended by itself (exit code 0)"
    if code > _SIGNAL_BASE:
        # Probes that fail end a container so, too, and leave no word of it in the pod.
        return f"was killed by signal {code - _SIGNAL_BASE} (exit code {code}); a probe that fails does that too"
    return f"ended with exit code {code}"


def _lost_readiness(status: Object, ready: Object) -> Found | None:
    """A pod that has been ready with the container that runs now, and is no longer.

    A worker that still loads is not ready either, for as long as it may need. The two are told apart by when the pod
    became unready: before its container started, or after.
    """
    for container in status.get("containerStatuses") or ():
        started = (container.get("state", {}).get("running") or {}).get("startedAt", "")
        since = ready.get("lastTransitionTime") or ""
        # Both are RFC 3339 in UTC and whole seconds, which sort as text.
        if container["name"] == names.MAIN and not container.get("ready") and started and since > started:
            return reasons.NOT_READY, "was ready and no longer is: its readiness probe fails"
    return None


def _told(what: str, said: str) -> str:
    said = detail(said)
    return f"{what}: {said}" if said else what
