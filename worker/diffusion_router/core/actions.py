"""What the core answers: to be carried out by the shells that own sockets and disks, in order.

Plain frozen data, as what it is told (`events`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from diffusion_router.core.events import FailureKind, JobStatus, ParkReason, R, RefusalReason, Stage


@dataclass(frozen=True, slots=True)
class Execute(Generic[R]):
    incarnation: str
    task_id: str
    job_id: str
    stage: Stage
    attempt: int
    input: R | None
    """The report of the stage before."""
    deadline: float
    alone: bool = False
    """Nothing else is to be computed beside it: should the worker end again, it is known who ended it."""
    order: float = 0.0
    """Of tasks that wait on the peer the lower goes first; of equals, the one that came first."""
    copy: bool = False
    """Nothing is computed: the input, an output of this stage, is to be kept by this peer too."""


@dataclass(frozen=True, slots=True)
class CancelTask:
    incarnation: str
    task_id: str
    only_if_waiting: bool = False


@dataclass(frozen=True, slots=True)
class ParkTask:
    """It is to end after its next step, with a checkpoint."""

    incarnation: str
    task_id: str
    reason: ParkReason


@dataclass(frozen=True, slots=True)
class AskCheckpoint:
    """It is to go on, and to leave a checkpoint as the output of another task: at the last step that ends in time."""

    incarnation: str
    task_id: str
    checkpoint_id: str
    within: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class ReleaseSlot:
    incarnation: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Welcome:
    incarnation: str


@dataclass(frozen=True, slots=True)
class Refuse:
    incarnation: str
    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The incarnation is fenced: whatever it still says is not heard."""

    incarnation: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobKilled:
    """A worker died while it ran this job: to be written down, so that I11 outlives the router."""

    job_id: str
    kills: int


@dataclass(frozen=True, slots=True)
class JobChanged:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobEnded(Generic[R]):
    """Said once for every job (I1). `result`: the report of its last stage, of a job that is completed."""

    job_id: str
    status: JobStatus
    kind: FailureKind = FailureKind.UNSPECIFIED
    message: str = ""
    result: R | None = None


Action = (
    Execute[R]
    | CancelTask
    | ParkTask
    | AskCheckpoint
    | ReleaseSlot
    | Welcome
    | Refuse
    | PeerLost
    | JobKilled
    | JobChanged
    | JobEnded[R]
)
