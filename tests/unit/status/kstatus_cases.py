"""Cases of Reconciling and Stalled: each other condition that makes one of them True, and those that do not."""

from __future__ import annotations

from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Observed
from unit.status.peer_cases import MEMLOCK, NO_DEVICE
from unit.status.progress_cases import PROGRESSING
from unit.status.seen import (
    RDMA_OR_NOTHING,
    answer,
    case,
    fault,
    observed,
    one_of_each,
    problem,
    role,
    unready,
)
from unit.status.upgrade_cases import GONE_BACK


def none_ready(reason: str) -> Observed:
    return observed(denoiser=unready(1, 0, problem(reason)))


PERMANENT: dict[str, tuple[Observed, str]] = {
    **{
        reason: (observed(fault=fault(reason)), "")
        for reason in ("ImmutableFieldChanged", "InvalidSpec", "Forbidden", "NameConflict")
    },
    **{reason: (none_ready(reason), "") for reason in reasons.MODEL_FAULTS},
    "NoModelCache": (observed(denoiser=unready(1, 0), cache_fault="there is no ModelCache sd3"), ""),
    "NoDevice": (observed(denoiser=unready(1, 0, NO_DEVICE)), ""),
    "MemlockLimit": (observed(denoiser=unready(1, 0, MEMLOCK)), ""),
    "TransportFailed": (none_ready("TransportFailed"), ""),
    "RolledBack": (observed(update=GONE_BACK), ""),
    "TransportDegraded": (observed(peers=answer(one_of_each(mode="mooncake-tcp"))), RDMA_OR_NOTHING),
}

STALLED = [
    case(seen, "Stalled", "True", reason, "", spec=spec, id=f"stalled: {reason}")
    for reason, (seen, spec) in PERMANENT.items()
]
NOT_STALLED = [
    case(observed(), "Stalled", "False", "NoFault", "nothing is known", id="all is well"),
    case(observed(fault=fault("ApplyFailed")), "Stalled", "False", "NoFault", "", id="what a webhook may have refused"),
    case(
        observed(denoiser=role(2, ready=1, updated=1, update_revision="r2", problems=(problem("ModelFailed"),))),
        "Stalled",
        "False",
        "NoFault",
        "",
        id="a rollout that fails while pods of before serve has until its deadline",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("CrashLoopBackOff"))),
        "Stalled",
        "False",
        "NoFault",
        "",
        id="a pod that may come up yet",
    ),
]
RECONCILING = [
    *(
        case(
            given.seen,
            "Reconciling",
            given.status,
            given.reason,
            "as Stalled says" if given.reason == "ProgressDeadlineExceeded" else given.message,
            spec=given.spec,
            previous=given.previous,
            now=given.now,
            id=f"reconciling: {given.reason}: {param.id}",
        )
        for param in PROGRESSING
        for given in param.values
    ),
    *(
        case(seen, "Reconciling", "False", reason, "as Stalled says", spec=spec, id=f"not reconciling: {reason}")
        for reason, (seen, spec) in PERMANENT.items()
    ),
]
LATE = [
    case(
        given.seen,
        "Stalled",
        "True",
        given.reason,
        given.message,
        previous=given.previous,
        now=given.now,
        id="stalled: it took longer than a start-up may",
    )
    for param in PROGRESSING
    for given in param.values
    if given.reason == "ProgressDeadlineExceeded"
]

CASES = [*STALLED, *NOT_STALLED, *RECONCILING, *LATE]
