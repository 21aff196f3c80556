"""Why pods are missing that a StatefulSet, or a DaemonSet, should have, out of the Warning Events of its controller.

Nothing else tells it: neither has a condition for it, and a pod that was refused does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Refusal
from diffusion_operator.status.wording import detail

_KINDS: Final = ("StatefulSet", "DaemonSet")
_FAILED: Final = ("FailedCreate", "FailedUpdate")
# The pod's name differs from event to event, what was refused does not.
_PREFIX: Final = re.compile(r"^(\w+ (Pod|Claim) .*? failed error|Error creating): ", re.DOTALL)
_CLAIM: Final = re.compile(r"^\w+ Claim (\S+) for Pod (\S+) ")
_POD: Final = re.compile(r'^(pods|persistentvolumeclaims) "[^"]*" is forbidden: ')


def refusal(event: Mapping[str, Any]) -> Refusal | None:
    """None: the event tells of something else."""
    if event.get("type") != "Warning" or event.get("reason") not in _FAILED:
        return None
    kind = event.get("involvedObject", {}).get("kind")
    if kind not in _KINDS:
        return None
    said = event.get("message") or ""
    message = detail(_claim(said) + _POD.sub("", _PREFIX.sub("", said)))
    if "violates PodSecurity" in message:
        return Refusal(reason=reasons.NAMESPACE_POD_SECURITY, message=message)
    if "exceeded quota" in message or "failed quota" in message:
        return Refusal(reason=reasons.QUOTA_EXCEEDED, message=message)
    return Refusal(reason=reasons.PODS_REFUSED, message=message or f"the {kind} controller does not say why")


def _claim(said: str) -> str:
    """Of which volume, if it is a claim that was refused."""
    found = _CLAIM.match(said)
    return f"claim {found[1].removesuffix(f'-{found[2]}')}: " if found else ""
