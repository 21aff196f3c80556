"""Cases of Progressing."""

from __future__ import annotations

from datetime import timedelta

from diffusion_operator.status.observed import SurgeObserved, UpdateObserved
from unit.status.seen import (
    NO_HCA,
    NO_HCA_2,
    NOW,
    SUSPENDED,
    at_zero,
    before,
    case,
    observed,
    role,
    unready,
)

ROLLING_OUT = observed(denoiser=role(3, updated=1, replicas=3, ready=2, update_revision="r2"))
HELD = observed(denoiser=role(3, updated=1, held=2, update_revision="r2"))
SURGE = UpdateObserved(
    operator="9.1",
    current="c" * 10,
    surge=SurgeObserved(digest="d" * 10, generation="b" * 10, percent=25, since=NOW, waits="denoiser 0 of 1"),
)
PROGRESSING = [
    case(
        observed(), "Progressing", "False", "Complete", "every role has the pods that are asked for", id="nothing to do"
    ),
    case(ROLLING_OUT, "Progressing", "True", "RollingOut", "denoiser: 1 of 3 pods updated", id="a rollout"),
    case(
        observed(denoiser=role(exists=False, observed=False, replicas=0, ready=0)),
        "Progressing",
        "True",
        "RollingOut",
        "denoiser: its StatefulSet does not exist yet",
        id="a StatefulSet is still to be made",
    ),
    case(
        observed(denoiser=role(observed=False)),
        "Progressing",
        "True",
        "RollingOut",
        "denoiser: the StatefulSet controller has not seen the latest change yet",
        id="a change that was just applied",
    ),
    case(
        observed(denoiser=role(2, replicas=2, updated=1)),
        "Progressing",
        "True",
        "RollingOut",
        "denoiser: 1 of 2 pods updated",
        id="a pod of an older template in between",
    ),
    case(
        observed(denoiser=role(3, replicas=2, ready=2, updated=2), encoder=unready(1, 0)),
        "Progressing",
        "True",
        "Scaling",
        "encoder: 0 of 1 pod ready; denoiser: 2 of 3 pods there",
        id="a role grows",
    ),
    case(
        observed(denoiser=role(1, replicas=2)),
        "Progressing",
        "True",
        "Scaling",
        "denoiser: 2 of 1 pod there",
        id="a pod that is too many leaves",
    ),
    case(
        observed(denoiser=unready(3, 1)),
        "Progressing",
        "True",
        "Starting",
        "denoiser: 1 of 3 pods ready",
        id="pods start",
    ),
    case(
        observed(update=SURGE),
        "Progressing",
        "True",
        "Surging",
        "generation bbbbbbbbbb takes 25 % of new jobs: denoiser 0 of 1",
        id="a generation takes over",
    ),
    case(
        HELD,
        "Progressing",
        "False",
        "Paused",
        "pods that updateStrategy leaves at the revision before: denoiser: 2 pods",
        id="a partition holds pods back",
    ),
    case(
        at_zero(denoiser=role(0, replicas=3)),
        "Progressing",
        "True",
        "Suspending",
        "3 pods still there",
        spec=SUSPENDED,
        id="pods leave, as it was suspended",
    ),
    case(at_zero(), "Progressing", "False", "Suspended", "no role has pods", spec=SUSPENDED, id="suspended"),
    case(
        observed(denoiser=unready(3, 1, NO_HCA, NO_HCA_2)),
        "Progressing",
        "False",
        "ProgressDeadlineExceeded",
        "not done when its time was over; denoiser: 2 pods Unschedulable",
        previous=before(observed(denoiser=unready(3, 1))),
        now=NOW + timedelta(seconds=1801),
        id="it took longer than a start-up may",
    ),
]

CASES = [*PROGRESSING]
