"""What the core knows: jobs, their tasks and outputs, and the peers that hold them.

Records only; what they hold is changed by `Book`, which keeps counts and indexes right. Credits are not counted but
derived from the tasks that a peer owns, so they can't leak, go negative or be given back twice (I4). An output knows
who may be reading it, so that its slot is released no earlier than I3 allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from diffusion_router.core.events import JobStatus, Parked, Priority, R, Stage
from diffusion_router.core.lifecycle import JobState


@dataclass(slots=True, eq=False)
class Output(Generic[R]):
    """A finished task's output, kept by `incarnation` until released."""

    task_id: str
    job_id: str
    stage: Stage
    incarnation: str
    generation: str
    report: R
    parked: Parked | None = None
    """It is a checkpoint of a denoising that came so far."""
    steps: int = 0
    """Of the denoising that ended with it, as far as known."""
    made_at: float = 0.0
    """When it was first heard of; of a copy, its original."""
    conditioning: str = ""
    """Its job's."""
    nbytes: int = 0
    """Of its pool, as far as known."""
    readers: set[str] = field(default_factory=set)
    """Tasks that may be reading it."""
    wanted_by: set[str] = field(default_factory=set)
    """Jobs of which a stage still needs it."""
    sharers: set[str] = field(default_factory=set)
    """Other jobs in whose list of outputs it is."""
    lost: bool = False
    """Its peer is lost, and the bytes with it."""
    transfer_failures: int = 0
    copied_by: str = ""
    """The task that is to keep a copy of it on another peer, if one is under way."""

    @property
    def feeds(self) -> Stage | None:
        """The stage that reads it. None: it is the result."""
        if self.parked is not None:
            return self.stage
        return None if self.stage is Stage.DECODE else Stage(self.stage + 1)

    @property
    def steps_done(self) -> int:
        return self.parked.step if self.parked is not None else 0

    @property
    def listed_by(self) -> set[str]:
        return {self.job_id, *self.sharers}

    @property
    def begins_in(self) -> str:
        """The generation in which jobs of its conditioning begin; empty: any."""
        return self.conditioning.rpartition(" ")[2]

    @property
    def slots(self) -> int:
        # What a decoder keeps until the store has it is a list of files, not a slot.
        return int(self.stage is not Stage.DECODE)


@dataclass(slots=True, eq=False)
class Task(Generic[R]):
    id: str
    job_id: str
    stage: Stage
    incarnation: str
    attempt: int
    input: Output[R] | None
    sent_at: float
    slots: int
    """Slots of its peer's pool that it may take: an input that is pulled, an output that is made."""
    nbytes: int = 0
    """Likewise bytes, as far as can be known before."""
    batch: str = ""
    """Its job's, unless it is computed alone."""
    started: bool = False
    at_once: bool = False
    """When it was sent, its peer had nothing else to do first."""
    begun: tuple[float, str] | None = None
    """When compute was heard to begin, and its job's shape."""
    alone_at: float = 0.0
    """Its peer's `alone_seconds` then."""
    alone_share: float = 1.0
    """Of the time that it has computed, how much it would have needed alone."""
    abandoned: bool = False
    """The job ended or moved on without it; its report only gives the credit back."""
    revoked: bool = False
    """Asked to be handed back, once."""
    resumable: bool = False
    """Heard to be: it can be parked."""
    parking: bool = False
    """Told to park."""
    parking_since: tuple[float, int] = (0.0, 0)
    """When, and at which step it was then."""
    checkpoint_id: str = ""
    """The task as whose output it is to leave a checkpoint while it goes on; `slots` has one for it until then."""
    checkpoint_not_before: float = 0.0
    """It is not asked for one before."""
    ends_soon: bool = False
    """It has a step left, or a moment: what comes next may be sent."""
    copies: Output[R] | None = None
    """What it is to keep a copy of: it computes nothing."""
    input_id: str = ""
    """Of a task that an earlier life of the router sent: the task whose output it reads, if it says."""
    reads: list[Output[R]] = field(default_factory=list)
    """Outputs that it may be reading: its input, and, for a task of an earlier life that does not say, whatever could
    be its input."""

    @property
    def could_move(self) -> bool:
        """Waits for its peer, which does not hold its input."""
        bound = self.input is not None and self.input.incarnation == self.incarnation
        return not (self.started or self.abandoned or bound)


@dataclass(slots=True)
class StageRecord(Generic[R]):
    """One try of a stage, for the client's stage table. `report`: once it is done."""

    stage: Stage
    pod_name: str
    attempt: int
    queue_seconds: float
    report: R | None = None
    shared: bool = False
    """Another job's task did it for this one too."""
    lost_steps: int = 0
    """Of a denoising that was lost or failed: steps that it is known to have made, and that are made again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed. `producer`: the peer whose output could not be pulled, which may turn out to be lost."""

    at: float
    producer: str = ""


@dataclass(slots=True, eq=False)
class Job(Generic[R]):
    """`state`, `stage`, `task` and `input` are changed by `Book.move` alone."""

    id: str
    seq: int
    deadline: float
    shape: str
    kills: int
    """Workers that died while they computed it."""
    encodes: str
    """Jobs of the same encode the same. Empty: nobody does."""
    ready_since: float
    since: float = 0.0
    """When it was accepted."""
    target: float = 0.0
    """As in JobSubmitted."""
    priority: Priority = Priority.STANDARD
    tenant: str = ""
    due: float = 0.0
    """When it should have ended, and the seconds of work that it needed when it came to wait: the ordering's to set."""
    work: float = 0.0
    parks: int = 0
    """Times that it gave way to another."""
    batch: str = ""
    """As in JobSubmitted."""
    adapters: frozenset[str] = frozenset()
    """Which it is denoised with; and by which scheduler, if by another than the model's own."""
    not_before: float = 0.0
    begins_in: str = ""
    """The generation in which it is to begin; empty: any."""
    failed_in: frozenset[str] = frozenset()
    """Generations that it has left for another, since it failed there."""
    follows: bool = False
    """It is to encode, and another that encodes the same does: it waits for what that one makes."""
    suspect: bool = False
    """A worker fell silent while it computed this job, and may have died of it."""
    state: JobState = JobState.QUEUED
    stage: Stage = Stage.ENCODE
    """The state's; of a job that has ended, where it was then."""
    task: Task[R] | None = None
    input: Output[R] | None = None
    failures: list[Failure] = field(default_factory=list)
    model_errors: int = 0
    pool_full: int = 0
    """Times that a pool was full since it came to its stage."""
    attempts: dict[Stage, int] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    """Peers on which one of its tasks failed; tried again only where there is no other."""
    outputs: dict[str, Output[R]] = field(default_factory=dict)
    """Outputs that peers keep for it, by task."""
    step: int = 0
    steps: int = 0
    records: list[StageRecord[R]] = field(default_factory=list)

    @property
    def status(self) -> JobStatus:
        return self.state.status

    @property
    def conditioning(self) -> str:
        """Jobs of one generation that encode the same. Empty: it shares with nobody."""
        return self.encodes and f"{self.encodes} {self.begins_in}"

    @property
    def share_left(self) -> float:
        """Of its denoising."""
        return 1.0 - min(self.step, self.steps) / self.steps if self.steps and self.stage is Stage.DENOISE else 1.0

    @property
    def alone(self) -> bool:
        """It may have killed a worker, and is computed beside no other."""
        return self.kills > 0 or self.suspect

    @property
    def company(self) -> str:
        """Its batch, if it may be computed with others just now."""
        return "" if self.alone else self.batch

    def ready(self, stage: Stage, now: float) -> bool:
        """Whether it waits for a task of this stage, and may have one."""
        state = self.state
        return state.stage is stage and not (state.has_task or self.follows) and self.not_before <= now


@dataclass(slots=True, eq=False)
class Encoding(Generic[R]):
    """What jobs of one conditioning have in common."""

    leader: Job[R] | None = None
    """Encodes for all of them, or is to."""
    followers: dict[str, Job[R]] = field(default_factory=dict)
    """Wait for what the leader makes, in order."""
    output: Output[R] | None = None
    """What was made, as long as it is kept."""
