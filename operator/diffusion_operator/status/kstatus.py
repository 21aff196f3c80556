"""Reconciling and Stalled: for tools that know no type, and wait for any object by the conventions of kstatus.

kstatus takes an object for current unless `Reconciling` or `Stalled` is True, or `Ready` is not. Ready=False alone it
takes for work in progress, so what will not mend by itself has to be said in Stalled.
https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, false, true

_PERMANENT: Final = {
    # APPLY_FAILED may be a webhook's, which is away for a while.
    reasons.RECONCILED: (
        reasons.IMMUTABLE_FIELD_CHANGED,
        reasons.INVALID_SPEC,
        reasons.FORBIDDEN,
        reasons.NAME_CONFLICT,
    ),
    reasons.PROGRESSING: (reasons.PROGRESS_DEADLINE_EXCEEDED,),
}
_REFUSED: Final = {
    reasons.MODEL_READY: (*reasons.MODEL_FAULTS, reasons.NO_MODEL_CACHE),
    reasons.TRANSPORT_READY: (reasons.NO_DEVICE, reasons.MEMLOCK_LIMIT, reasons.TRANSPORT_FAILED),
}
"""What the resource asks for cannot be had here. Where pods of before serve on, a rollout has until its deadline."""


def stalled(found: Mapping[str, Finding]) -> Finding:
    """`found`: all conditions that are not about these two."""
    for kind, permanent in _PERMANENT.items():
        if found[kind].status == "False" and found[kind].reason in permanent:
            return true(found[kind].reason, found[kind].message)
    if found[reasons.READY].reason == reasons.TRANSPORT_DEGRADED:
        return true(reasons.TRANSPORT_DEGRADED, found[reasons.READY].message)
    if found[reasons.AVAILABLE].status != "True":
        for kind, refused in _REFUSED.items():
            if found[kind].status == "False" and found[kind].reason in refused:
                return true(found[kind].reason, found[kind].message)
    update = found[reasons.UPGRADE_AVAILABLE]
    if update.reason == reasons.ROLLED_BACK:
        return true(reasons.ROLLED_BACK, update.message)
    return false(reasons.NO_FAULT, "nothing is known that would keep it from becoming ready")


def reconciling(found: Mapping[str, Finding], stalled: Finding) -> Finding:
    progressing = found[reasons.PROGRESSING]
    if stalled.status == "True":
        return false(stalled.reason, "it stands still, as Stalled says")
    if progressing.status == "True":
        return true(progressing.reason, progressing.message)
    return false(progressing.reason, progressing.message)
