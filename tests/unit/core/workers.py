"""Simulated workers: they follow peer.proto as the real ones do, one small thing at a time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from diffusion_router.core import (
    Action,
    Adapters,
    AskCheckpoint,
    CancelTask,
    Event,
    Execute,
    FailureKind,
    HeldTask,
    InputReceived,
    Parked,
    ParkTask,
    PeerHeartbeat,
    PeerRegistered,
    Process,
    Progressed,
    RefusalReason,
    Refuse,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
)

STEPS = 3


@dataclass(frozen=True)
class Where:
    """A descriptor: whose pool, which task's output, and what its bytes are."""

    incarnation: str
    task_id: str
    generation: str
    content: str
    parked: Parked | None = None


def checkpoint_of(job_id: str, step: int) -> str:
    return f"{content_of(Stage.DENOISE, job_id)}, parked at {step}"


def content_of(stage: Stage, job_id: str) -> str:
    """Jobs whose ids have the same end, behind an @, encode the same."""
    _, _, conditioning = job_id.partition("@")
    return f"{stage.name} of {conditioning if stage is Stage.ENCODE and conditioning else job_id}"


class Phase(Enum):
    PULLING = "pulling"
    WAITING = "waiting"
    RUNNING = "running"


@dataclass
class Held:
    """A task that a worker was given and has not ended."""

    execute: Execute
    phase: Phase
    step: int = 0
    cancelled: bool = False
    parking: bool = False
    # The task as whose output it is to leave a checkpoint at its next step.
    checkpoint: str = ""
    # Bytes of the input: read when they are pulled, or when compute starts where they lie in the worker's own pool.
    content: str | None = None
    pulls: bool = False

    @property
    def reads_slot(self) -> Where | None:
        source = self.execute.input
        return source if isinstance(source, Where) and self.content is None else None


@dataclass(eq=False)
class Stream:
    """One attachment of a worker. `down` and `up` hold what is on its way."""

    incarnation: str
    generation: str
    stages: frozenset[Stage]
    up: deque[Event] = field(default_factory=deque)
    down: deque[Action] = field(default_factory=deque)
    # The router still reads it.
    router_open: bool = True


@dataclass(eq=False)
class Worker:
    pod: str
    incarnation: str
    stages: frozenset[Stage]
    generation: str = "g1"
    mode: str = "tcp"
    ip: str = ""
    pulls: str = ""
    model: str = "m"
    capacity: int = 1
    prefetch: int = 1
    # What it says that its pool holds, and what it holds when payloads are large.
    slots: int = 8
    real_slots: int = 8
    # Bytes of its pool, of which an output takes 1 to 3; 0: it says nothing of bytes.
    pool_bytes: int = 0
    cache_share: float = 0.0
    alive: bool = True
    frozen: bool = False
    draining: bool = False
    refused: str = ""
    taken: int = 0
    """Times that it was told that its name is another's."""
    process: Process | None = None
    adapters: Adapters = field(default_factory=Adapters)
    schedulers: frozenset[str] = frozenset()
    # Whether its denoisings can be parked, and it keeps copies of what others made.
    resumable: bool = False
    copies: bool = False
    # Whether it keeps what encoders made, though it is none.
    keeps_conditioning: bool = False
    # How long it says that a stage took: a denoising that has no more than a moment left is not parked.
    seconds: float = 1.0
    checkpoints: bool = False
    # Whether it says which outputs its tasks read, as those of older versions don't.
    says_inputs: bool = True
    tasks: dict[str, Held] = field(default_factory=dict)
    outputs: dict[str, StageResult] = field(default_factory=dict)
    stream: Stream | None = None
    # Task ids that it was given, and stages that it began to compute, by job.
    given: set[str] = field(default_factory=set)
    computed: Counter[tuple[str, Stage]] = field(default_factory=Counter)
    # Steps that it made, by job.
    steps: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def acts(self) -> bool:
        return self.alive and not self.frozen

    @property
    def attached(self) -> bool:
        return self.stream is not None and self.stream.router_open

    @property
    def slots_used(self) -> int:
        outputs = sum(result.stage is not Stage.DECODE for result in self.outputs.values())
        return outputs + sum(held.pulls for held in self.tasks.values())

    def attach(self) -> None:
        """Opens a new stream and says what it holds."""
        self.stream = Stream(self.incarnation, self.generation, self.stages)
        held = [
            HeldTask(
                held.execute.task_id,
                held.execute.job_id,
                held.execute.stage,
                held.phase is Phase.RUNNING,
                held.execute.input.task_id if self.says_inputs and isinstance(held.execute.input, Where) else "",
                held.execute.copy,
            )
            for held in self.tasks.values()
        ]
        registration = PeerRegistered(
            incarnation=self.incarnation,
            stages=self.stages,
            pod_name=self.pod,
            generation=self.generation,
            mode=self.mode,
            ip=self.ip,
            pulls=self.pulls,
            model=self.model,
            capacity=self.capacity,
            slots=self.slots,
            pool_bytes=self.pool_bytes,
            cache_share=self.cache_share,
            draining=self.draining,
            process=self.process,
            adapters=self.adapters,
            schedulers=self.schedulers,
            copies=self.copies,
            keeps_conditioning=self.keeps_conditioning,
            checkpoints=self.checkpoints,
            tasks=tuple(held),
            outputs=tuple(self.outputs.values()),
        )
        self.stream.up.append(registration)

    def report(self, event: Event) -> None:
        if self.stream is not None:
            self.stream.up.append(event)

    def offer(self, *names: str, loaded: tuple[str, ...] = ()) -> None:
        self.adapters = Adapters(frozenset(names), frozenset(loaded))
        self.report(PeerHeartbeat(self.incarnation, self.draining, self.adapters))

    def lose_everything(self) -> None:
        self.tasks.clear()
        self.outputs.clear()

    def drain(self) -> None:
        """SIGTERM: takes nothing more, gives back what does not run yet."""
        self.draining = True
        self.report(PeerHeartbeat(self.incarnation, draining=True))
        for held in list(self.tasks.values()):
            if held.phase is not Phase.RUNNING:
                self.end_task(held, FailureKind.HANDED_BACK)

    # ------------------------------------------------------------ commands

    def obey(self, command: Action, next_incarnation: Callable[[], str]) -> None:
        match command:
            case Execute():
                self._take(command)
            case CancelTask():
                self._cancel(command)
            case ParkTask():
                if command.task_id in self.tasks:
                    self.tasks[command.task_id].parking = True
            case AskCheckpoint():
                if command.task_id in self.tasks:
                    self.tasks[command.task_id].checkpoint = command.checkpoint_id
            case ReleaseSlot():
                self.outputs.pop(command.task_id, None)
            case Refuse(reason=RefusalReason.FENCED):
                self.lose_everything()
                self.incarnation = next_incarnation()
                self.stream = None
            case Refuse(reason=RefusalReason.NAME_TAKEN):
                self.taken += 1
                self.stream = None
            case Refuse():
                self.refused = command.message
                self.stream = None

    def _take(self, execute: Execute) -> None:
        assert execute.task_id not in self.given, "a task was sent twice"
        self.given.add(execute.task_id)
        source = execute.input
        held = Held(execute, Phase.WAITING)
        self.tasks[execute.task_id] = held
        tasks = sum(not (other.execute.copy or other.parking) for other in self.tasks.values())
        assert tasks <= self.capacity + self.prefetch, f"I4: {self.pod} was given {tasks} tasks"
        if isinstance(source, Where) and source.incarnation != self.incarnation:
            assert source.generation == self.generation, "a tensor would cross generations"
            held.pulls, held.phase = True, Phase.PULLING
        if self.draining:
            self.end_task(held, FailureKind.HANDED_BACK)
        elif held.pulls:
            assert self.slots_used <= self.slots, "the pool's slots are overdrawn by an input"
            if self.slots_used > self.real_slots:
                self.end_task(held, FailureKind.POOL_FULL)

    def _cancel(self, command: CancelTask) -> None:
        held = self.tasks.get(command.task_id)
        if held is None:
            return
        if held.phase is not Phase.RUNNING:
            self.end_task(held, FailureKind.HANDED_BACK if command.only_if_waiting else FailureKind.CANCELLED)
        elif not command.only_if_waiting:
            held.cancelled = True

    # ------------------------------------------------------------ work

    def work(self, index: int, find: Callable[[str], Worker | None]) -> bool:
        """The next small thing for its task number `index`; False if there is nothing to do for it."""
        if not self.acts or not self.tasks:
            return False
        held = list(self.tasks.values())[index % len(self.tasks)]
        if held.phase is Phase.PULLING:
            self._pull(held, find)
        elif held.phase is Phase.WAITING:
            return self._begin(held)
        elif held.cancelled:
            self.end_task(held, FailureKind.CANCELLED)
        elif held.step < STEPS and held.execute.stage is Stage.DENOISE:
            held.step += 1
            self.steps[held.execute.job_id, held.step] += 1
            self.report(Progressed(self.incarnation, held.execute.task_id, held.step, STEPS, self.resumable))
            if held.parking and held.step < STEPS:
                self._finish(held)
            elif held.checkpoint and held.step < STEPS:
                self._leave_checkpoint(held)
        else:
            self._finish(held)
        return True

    def _pull(self, held: Held, find: Callable[[str], Worker | None]) -> None:
        source = held.execute.input
        assert isinstance(source, Where)
        owner = find(source.incarnation)
        if owner is None or source.task_id not in owner.outputs:
            self.end_task(held, FailureKind.TRANSFER)
            return
        held.content, held.phase = source.content, Phase.WAITING
        if held.execute.copy:
            self._keep(held, source.content, source.parked)
            return
        self.report(InputReceived(self.incarnation, held.execute.task_id))

    def _begin(self, held: Held) -> bool:
        running = [other for other in self.tasks.values() if other.phase is Phase.RUNNING]
        together = [*running, held] if running else []
        if held.execute.copy or len(running) >= self.capacity or any(other.execute.alone for other in together):
            return False
        source = held.execute.input
        if isinstance(source, Where) and not held.pulls:
            if source.task_id not in self.outputs:
                self.end_task(held, FailureKind.TRANSFER)
                return True
            held.content = source.content
        held.phase = Phase.RUNNING
        resumed = source.parked if isinstance(source, Where) else None
        held.step = resumed.step if resumed is not None else 0
        self.computed[held.execute.job_id, held.execute.stage] += resumed is None
        denoises = held.execute.stage is Stage.DENOISE
        # How many steps there are it knows, as real ones do, once it has made one.
        self.report(Progressed(self.incarnation, held.execute.task_id, 0, 0, self.resumable and denoises))
        return True

    def _finish(self, held: Held) -> None:
        task_id, job_id, stage = held.execute.task_id, held.execute.job_id, held.execute.stage
        if stage is not Stage.ENCODE:
            resumed = held.execute.input.parked
            expected = content_of(Stage(stage - 1), job_id) if resumed is None else checkpoint_of(job_id, resumed.step)
            assert held.content == expected, f"{task_id} computed from {held.content}"
        if stage is Stage.DENOISE and held.step < STEPS:
            self._keep(held, checkpoint_of(job_id, held.step), Parked(held.step, STEPS))
        else:
            self._keep(held, content_of(stage, job_id))

    def _keep(self, held: Held, content: str, parked: Parked | None = None) -> None:
        task_id, job_id, stage = held.execute.task_id, held.execute.job_id, held.execute.stage
        if stage is Stage.DECODE:
            done = StageResult(task_id, job_id, stage, content, compute_seconds=self.seconds)
        else:
            # A copy is kept where it was pulled to.
            if self.slots_used - held.pulls + 1 > self.real_slots:
                self.end_task(held, FailureKind.POOL_FULL)
                return
            where = Where(self.incarnation, task_id, self.generation, content, parked)
            nbytes = 1 + len(self.given) % 3 if self.pool_bytes else 0
            steps = STEPS if stage is Stage.DENOISE and parked is None else 0
            done = StageResult(task_id, job_id, stage, where, self.seconds, parked=parked, nbytes=nbytes, steps=steps)
        del self.tasks[task_id]
        self.outputs[task_id] = done
        assert self.slots_used <= self.slots, "the pool's slots are overdrawn by an output"
        self.report(StageDone(self.incarnation, done))

    def _leave_checkpoint(self, held: Held) -> None:
        """And goes on."""
        checkpoint_id, held.checkpoint = held.checkpoint, ""
        job_id, parked = held.execute.job_id, Parked(held.step, STEPS)
        if self.slots_used + 1 > self.real_slots:
            self.fail(checkpoint_id, FailureKind.POOL_FULL)
            return
        where = Where(self.incarnation, checkpoint_id, self.generation, checkpoint_of(job_id, held.step), parked)
        done = StageResult(
            checkpoint_id, job_id, Stage.DENOISE, where, parked=parked, nbytes=1 if self.pool_bytes else 0
        )
        self.outputs[checkpoint_id] = done
        assert self.slots_used <= self.slots, "the pool's slots are overdrawn by a checkpoint"
        self.report(StageDone(self.incarnation, done))

    def end_task(self, held: Held, kind: FailureKind) -> None:
        del self.tasks[held.execute.task_id]
        self.fail(held.execute.task_id, kind)

    def fail(self, task_id: str, kind: FailureKind) -> None:
        self.report(StageFailed(self.incarnation, task_id, kind, kind.name.lower()))
