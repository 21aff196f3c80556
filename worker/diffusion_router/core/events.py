"""What the core is told, and what it answers.

Events come from worker streams, the public API, the store and the clock; actions go to the shells that own sockets and
disks. Both are plain frozen data, so that a history can be recorded, replayed, shuffled and cut off at any point.
Times are seconds on one monotonic clock of the caller's choice. `R` is what workers report at a stage's end: the core
carries it from one to the next and to the client without looking inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Generic, TypeVar

R = TypeVar("R")


class Stage(IntEnum):
    """A stage of a job, and the role that runs it. Numbers are those of diffusionpipeline.v1.Stage and Role."""

    ENCODE = 1
    DENOISE = 2
    DECODE = 3


class Priority(IntEnum):
    """Whose jobs come first, whatever their targets. Numbers are those of diffusionpipeline.v1.Priority."""

    INTERACTIVE = 1
    STANDARD = 2
    BATCH = 3


class FailureKind(IntEnum):
    """Why a task or a job failed. Numbers are those of diffusionpipeline.v1.FailureKind."""

    UNSPECIFIED = 0
    INVALID_REQUEST = 1
    MODEL_ERROR = 2
    TRANSFER = 3
    TOO_LARGE = 4
    POOL_FULL = 5
    CANCELLED = 6
    HANDED_BACK = 7
    INCOMPATIBLE = 8
    RETRIES_EXHAUSTED = 9
    POISON = 10
    DEADLINE = 11
    STORE = 12
    STALLED = 13


class JobStatus(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class ParkReason(Enum):
    GIVES_WAY = "gives_way"
    """To a job that is more urgent."""
    LEAVES = "leaves"
    """Its peer does."""
    MOVES = "moves"
    """It goes on faster on a peer that has nothing to do."""


class RefusalReason(IntEnum):
    """Numbers are those of diffusionpipeline.v1.RefusalReason."""

    FENCED = 1
    INCOMPATIBLE = 2
    NAME_TAKEN = 3


@dataclass(frozen=True, slots=True)
class Process:
    """Which process a worker is: of which pod (or machine), and when it started by that one's clock."""

    pod: str
    started: float

    def follows(self, other: Process) -> bool:
        """Whether it is a later one of the same pod, so that the other is dead."""
        return self.pod == other.pod and self.started > other.started


@dataclass(frozen=True, slots=True)
class HeldTask:
    """A task that a registering worker says it was given and has not ended."""

    task_id: str
    job_id: str
    stage: Stage
    started: bool
    input_id: str = ""
    """The task whose output it reads; empty: it does not say, or reads none."""
    copy: bool = False
    """As in Execute."""


@dataclass(frozen=True, slots=True)
class Parked:
    """How far a denoising had come when it was parked."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class StageResult(Generic[R]):
    """What a finished task leaves."""

    task_id: str
    job_id: str
    stage: Stage
    report: R
    """Where a later stage finds it, or what the client gets; how long it took, and whatever else the shells want."""
    compute_seconds: float = 0.0
    parked: Parked | None = None
    """It did not finish: what it leaves is a checkpoint, and another task of the stage goes on from it."""
    nbytes: int = 0
    """That it takes of its worker's pool."""
    forwards: str = ""
    """What most of a denoising's forwards were of, as in ForwardTime."""
    steps: int = 0
    """Of a denoising that is finished: all of its steps, as far as known."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a worker, by name."""

    offered: frozenset[str] = frozenset()
    """It can compute with them."""
    loaded: frozenset[str] = frozenset()
    """They are in its memory; a task that names another waits for a load."""


@dataclass(frozen=True, slots=True)
class ForwardTime:
    """What a forward of one shape took a worker when so many requests shared it; a moving average."""

    shape: str
    requests: int
    seconds: float


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A job that is already written down. `restored`: in an earlier life of the router, so a worker may hold it."""

    job_id: str
    deadline: float
    shape: str = ""
    kills: int = 0
    restored: bool = False
    conditioning: str = ""
    """Jobs of the same encode the same: one of them does, for all. Empty: nobody encodes the same."""
    batch: str = ""
    """Jobs of the same can share forwards of a denoiser. Empty: it shares with nobody."""
    adapters: frozenset[str] = frozenset()
    """Only denoisers that offer all of them can take it."""
    scheduler: str = ""
    """Likewise. Empty: the model's own."""
    since: float | None = None
    """When it was accepted. None: now."""
    target: float = 0.0
    """Seconds from then in which it should end. 0: by the policy's factor of what it is predicted to take alone."""
    priority: Priority = Priority.STANDARD
    tenant: str = ""
    """Whose it is: tenants of one priority get the same share."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    job_id: str


@dataclass(frozen=True, slots=True)
class JobRecorded:
    """The store has the job's end; what the workers kept for it may go."""

    job_id: str


@dataclass(frozen=True, slots=True)
class PeerRegistered(Generic[R]):
    incarnation: str
    stages: frozenset[Stage]
    pod_name: str = ""
    generation: str = ""
    mode: str = ""
    """By which its pool is pulled from."""
    pulls: str = ""
    """By which it pulls its inputs. Empty: by the same."""
    model: str = ""
    capacity: int = 1
    slots: int = 64
    pool_bytes: int = 0
    """Of its pool. 0: it does not say."""
    cache_share: float = 0.0
    """Of its pool, how much may be kept by outputs that no job needs, for jobs to come."""
    draining: bool = False
    ip: str = ""
    """The version of IP that its transport is held to, IPv4 or IPv6; empty: to none."""
    process: Process | None = None
    """None: an older worker, which does not say."""
    adapters: Adapters = Adapters()
    schedulers: frozenset[str] = frozenset()
    """That it can denoise by, by name."""
    copies: bool = False
    """It keeps copies of others' outputs if it is told to."""
    keeps_conditioning: bool = False
    """Likewise what encoders made, though it denoises and does not encode."""
    checkpoints: bool = False
    """It makes checkpoints of denoisings that go on if it is asked to."""
    tasks: tuple[HeldTask, ...] = ()
    outputs: tuple[StageResult[R], ...] = ()


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    incarnation: str


@dataclass(frozen=True, slots=True)
class PeerHeartbeat:
    incarnation: str
    draining: bool = False
    adapters: Adapters | None = None
    """None: as it said before."""
    forwards: tuple[ForwardTime, ...] = ()
    """Those that are others than it said before."""


@dataclass(frozen=True, slots=True)
class PeerProbed:
    """It tried the way to another, which is the shells' to keep; the list of peers tells it."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class PeerDrained:
    """The worker holds nothing any more and leaves of its own accord."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class InputReceived:
    incarnation: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """Step 0 says that compute has started."""

    incarnation: str
    task_id: str
    step: int
    steps: int
    resumable: bool = False
    """It can be parked."""


@dataclass(frozen=True, slots=True)
class StageDone(Generic[R]):
    incarnation: str
    result: StageResult[R]


@dataclass(frozen=True, slots=True)
class StageFailed:
    incarnation: str
    task_id: str
    kind: FailureKind
    message: str = ""


@dataclass(frozen=True, slots=True)
class SharesSet:
    """Of jobs that have not begun, so many percent begin in each generation. Empty: anywhere."""

    percent: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RouterStops:
    """This life of the router ends. The next one can't tell for which jobs to come an output would do, so none is kept
    for them, nor for readers that are lost; no worker that is told to leave waits for one to be released."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: leases, deadlines and back-offs are looked at."""


Event = (
    JobSubmitted
    | CancelRequested
    | JobRecorded
    | PeerRegistered[R]
    | PeerDisconnected
    | PeerHeartbeat
    | PeerProbed
    | PeerDrained
    | InputReceived
    | Progressed
    | StageDone[R]
    | StageFailed
    | SharesSet
    | RouterStops
    | Tick
)
