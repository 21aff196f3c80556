"""A simulated world around the router's core: workers, their streams, a store, clients, a clock, and what goes wrong.

Workers follow the protocol of peer.proto: they pull inputs, run tasks step by step, keep what they made until the
router releases it, and say what they hold whenever they attach. Streams are first-in first-out each way and may be
cut at any point. The store outlives the router. Every action that the core emits is checked against the invariants of
design §5 at the moment it is emitted; what must hold at the end is checked by `check_at_rest`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from diffusion_router.core import (
    Action,
    CancelRequested,
    CancelTask,
    Core,
    Event,
    Execute,
    FailureKind,
    HeldTask,
    InputReceived,
    JobChanged,
    JobEnded,
    JobKilled,
    JobRecorded,
    JobStatus,
    JobSubmitted,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerLost,
    PeerRegistered,
    Policy,
    Progressed,
    RefusalReason,
    Refuse,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
    Tick,
    Welcome,
)

POLICY = Policy(lease=6.0, settle=2.0, grace=4.0)
ALL = frozenset(Stage)
FAR = 1e9
_STEPS = 2


@dataclass(frozen=True)
class Where:
    """A descriptor: whose pool, which task's output, and what its bytes are."""

    incarnation: str
    task_id: str
    generation: str
    content: str


def content_of(stage: Stage, job_id: str) -> str:
    return f"{stage.name} of {job_id}"


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

    worker: Worker
    incarnation: str
    up: deque[Event] = field(default_factory=deque)
    down: deque[Action] = field(default_factory=deque)
    # The worker still uses it; the router still listens to it.
    worker_open: bool = True
    router_open: bool = True


@dataclass(eq=False)
class Worker:
    pod: str
    incarnation: str
    stages: frozenset[Stage]
    generation: str = "g1"
    mode: str = "tcp"
    model: str = "m"
    capacity: int = 1
    # What it says, and what its pool can really hold just now.
    slots: int = 8
    real_slots: int = 8
    alive: bool = True
    frozen: bool = False
    draining: bool = False
    refused: str = ""
    tasks: dict[str, Held] = field(default_factory=dict)
    outputs: dict[str, StageResult] = field(default_factory=dict)
    stream: Stream | None = None
    # Executes that it was given, ever.
    seen: set[str] = field(default_factory=set)

    @property
    def acts(self) -> bool:
        return self.alive and not self.frozen

    @property
    def slots_used(self) -> int:
        outputs = sum(result.stage is not Stage.DECODE for result in self.outputs.values())
        return outputs + sum(held.pulls for held in self.tasks.values())

    def registration(self) -> PeerRegistered:
        return PeerRegistered(
            incarnation=self.incarnation,
            stages=self.stages,
            pod_name=self.pod,
            generation=self.generation,
            mode=self.mode,
            model=self.model,
            capacity=self.capacity,
            slots=self.slots,
            draining=self.draining,
            tasks=tuple(
                HeldTask(h.execute.task_id, h.execute.job_id, h.execute.stage, h.phase is Phase.RUNNING)
                for h in self.tasks.values()
            ),
            outputs=tuple(self.outputs.values()),
        )


@dataclass
class StoredJob:
    deadline: float
    kills: int = 0
    status: JobStatus | None = None
    kind: FailureKind = FailureKind.UNSPECIFIED
    result: object = None
    ends_recorded: int = 0
    cancel_asked: bool = False
    # Something other than a loss went wrong with it: it may fail.
    tainted: bool = False


class World:
    """Owns the clock. Rules and directed tests move it; nothing in it happens by itself."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.now = 0.0
        self.life = 0
        self.store: dict[str, StoredJob] = {}
        self.workers: list[Worker] = []
        self.to_record: deque[JobEnded] = deque()
        # This life's: streams by incarnation, ends said, when it began.
        self.streams: dict[str, Stream] = {}
        self.ended_this_life: Counter[str] = Counter()
        self.started_at = 0.0
        # Tasks that are known to run, by incarnation: {task id: job id}.
        self.known_running: dict[str, dict[str, str]] = {}
        # Tasks sent in this life that were neither reported as ended nor cancelled, by job.
        self.live_tasks: dict[str, set[str]] = {}
        self.fenced_at: dict[str, float] = {}
        self.reports: deque[Event] = deque(maxlen=20)
        self.log: list[Action] = []
        self.computed: Counter[tuple[str, Stage]] = Counter()
        self.names = 0
        self.core = self._new_core()

    # ------------------------------------------------------------ router

    def _new_core(self) -> Core:
        self.life += 1
        self.started_at = self.now
        return Core(self.policy, epoch=f"e{self.life}", now=self.now)

    def restart_router(self) -> None:
        for stream in [*self.streams.values(), *(worker.stream for worker in self.workers if worker.stream)]:
            stream.router_open = stream.worker_open = False
        self.streams.clear()
        self.to_record.clear()
        self.ended_this_life.clear()
        self.known_running.clear()
        self.live_tasks.clear()
        self.fenced_at.clear()
        self.reports.clear()
        self.core = self._new_core()
        for job_id, job in self.store.items():
            if job.status is None:
                self.tell(JobSubmitted(job_id, job.deadline, kills=job.kills, restored=True))

    def tell(self, event: Event) -> list[Action]:
        self._note(event)
        actions = self.core.handle(event, self.now)
        self.log += actions
        if isinstance(event, PeerRegistered):
            self._note_adopted(event)
        for action in actions:
            self._carry_out(action, actions)
        self.check_always()
        return actions

    def _note(self, event: Event) -> None:
        """What the router now knows, kept apart from the core's own books."""
        if isinstance(event, Progressed):
            if event.incarnation in self.core.peers and event.task_id in self.core.peers[event.incarnation].tasks:
                job_id = event.task_id.split(".")[0]
                if event.task_id in self.live_tasks.get(job_id, set()):
                    self.known_running.setdefault(event.incarnation, {})[event.task_id] = job_id
        elif isinstance(event, StageDone):
            self._close(event.incarnation, event.result.task_id)
        elif isinstance(event, StageFailed):
            self._close(event.incarnation, event.task_id)
        elif isinstance(event, PeerRegistered) and event.incarnation not in self.fenced_at:
            held = {task.task_id: task for task in event.tasks}
            peer = self.core.peers.get(event.incarnation)
            for task_id in list(peer.tasks) if peer else []:
                if task_id not in held:
                    self._close(event.incarnation, task_id)

    def _close(self, incarnation: str, task_id: str) -> None:
        if incarnation in self.core.peers:
            self.known_running.get(incarnation, {}).pop(task_id, None)
            self.live_tasks.get(task_id.split(".")[0], set()).discard(task_id)

    def _carry_out(self, action: Action, batch: list[Action]) -> None:
        match action:
            case Execute():
                self._check_execute(action)
                self._send(action.incarnation, action)
            case CancelTask():
                if not action.only_if_waiting:
                    self._close_by_id(action.task_id)
                self._send(action.incarnation, action)
            case ReleaseSlot():
                self._check_release(action)
                self._send(action.incarnation, action)
            case Welcome() | Refuse():
                self._send(action.incarnation, action)
            case PeerLost():
                self._check_kills(action, batch)
                self.fenced_at[action.incarnation] = self.now
                stream = self.streams.pop(action.incarnation, None)
                if stream is not None:
                    stream.router_open = False
            case JobKilled():
                job = self.store[action.job_id]
                assert action.kills == job.kills + 1
                job.kills = action.kills
            case JobEnded():
                self.ended_this_life[action.job_id] += 1
                assert self.ended_this_life[action.job_id] == 1, f"I1: {action.job_id} ended twice in one life"
                assert self.store[action.job_id].status is None, f"I1: {action.job_id} had ended before"
                self.to_record.append(action)
            case JobChanged():
                assert action.job_id in self.core.jobs

    def _close_by_id(self, task_id: str) -> None:
        self.live_tasks.get(task_id.split(".")[0], set()).discard(task_id)
        for running in self.known_running.values():
            running.pop(task_id, None)

    def _note_adopted(self, event: PeerRegistered) -> None:
        peer = self.core.peers.get(event.incarnation)
        for held in event.tasks if peer else ():
            task = peer.tasks.get(held.task_id)
            job = self.core.jobs.get(held.job_id)
            if task is not None and job is not None and job.task is task:
                self.live_tasks.setdefault(task.job_id, set()).add(task.id)
                if task.started:
                    self.known_running.setdefault(peer.incarnation, {})[task.id] = task.job_id

    def _send(self, incarnation: str, action: Action) -> None:
        stream = self.streams.get(incarnation)
        if stream is not None:
            stream.down.append(action)

    def record_one(self) -> None:
        if self.to_record:
            end = self.to_record.popleft()
            job = self.store[end.job_id]
            assert job.status is None, "I1"
            job.status, job.kind, job.result = end.status, end.kind, end.result
            job.ends_recorded += 1
            self.tell(JobRecorded(end.job_id))

    # ------------------------------------------------------------ clients

    def submit(self, deadline: float = FAR, shape: str = "") -> str:
        job_id = f"j{len(self.store) + 1}"
        self.store[job_id] = StoredJob(deadline)
        self.tell(JobSubmitted(job_id, deadline, shape))
        return job_id

    def cancel(self, job_id: str) -> None:
        self.store[job_id].cancel_asked = True
        self.tell(CancelRequested(job_id))

    # ------------------------------------------------------------ workers

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def spawn(self, *stages: Stage, attach: bool = True, pod: str = "", **settings: object) -> Worker:
        worker = Worker(pod or self.name("pod"), self.name("i"), frozenset(stages) or ALL)
        worker = replace(worker, **settings)  # type: ignore[arg-type]
        if "slots" in settings and "real_slots" not in settings:
            worker.real_slots = worker.slots
        self.workers.append(worker)
        if attach:
            self.attach(worker)
            self.settle_streams()
        return worker

    def attach(self, worker: Worker) -> None:
        """Opens a new stream; the old one's unsent and unread messages are gone."""
        if worker.stream is not None:
            self.cut(worker)
        worker.stream = Stream(worker, worker.incarnation)
        worker.stream.up.append(worker.registration())

    def cut(self, worker: Worker, keep_up: int = 0) -> None:
        """The stream breaks. The router still gets the first `keep_up` reports, then finds it broken."""
        stream, worker.stream = worker.stream, None
        if stream is None:
            return
        stream.worker_open = False
        stream.down.clear()
        while len(stream.up) > keep_up:
            stream.up.pop()
        if stream.router_open:
            stream.up.append(PeerDisconnected(stream.incarnation))

    def kill(self, worker: Worker, keep_up: int = 0) -> None:
        """keep_up: reports already on their way that still arrive."""
        self._lingering(worker, keep_up)
        worker.alive = False
        worker.tasks.clear()
        worker.outputs.clear()

    def _lingering(self, worker: Worker, keep_up: int) -> None:
        stream = worker.stream
        self.cut(worker, keep_up)
        if stream is not None and stream.router_open and stream in self.streams.values():
            self.deliver(stream, len(stream.up))

    def freeze(self, worker: Worker) -> None:
        worker.frozen = True

    def thaw(self, worker: Worker) -> None:
        worker.frozen = False

    def drain(self, worker: Worker) -> None:
        """SIGTERM."""
        worker.draining = True
        self.report(worker, PeerHeartbeat(worker.incarnation, draining=True))
        for held in list(worker.tasks.values()):
            if held.phase is not Phase.RUNNING:
                self._end_task(worker, held, FailureKind.HANDED_BACK)

    def report(self, worker: Worker, event: Event) -> None:
        if worker.stream is not None:
            worker.stream.up.append(event)

    def reincarnate(self, worker: Worker) -> None:
        worker.incarnation = self.name("i")
        worker.tasks.clear()
        worker.outputs.clear()

    # ------------------------------------------------------------ streams

    def deliver_up(self, worker: Worker, count: int = 1) -> None:
        if worker.stream is not None:
            self.deliver(worker.stream, count)

    def deliver(self, stream: Stream, count: int) -> None:
        """The router reads `count` reports. A stream that was superseded or closed by the router is not read."""
        for _ in range(min(count, len(stream.up))):
            if not stream.router_open:
                stream.up.clear()
                return
            event = stream.up.popleft()
            if isinstance(event, PeerRegistered):
                old = self.streams.get(event.incarnation)
                if old is not None:
                    old.router_open = False
                self.streams[event.incarnation] = stream
            elif isinstance(event, PeerDisconnected):
                stream.router_open = False
                if self.streams.get(stream.incarnation) is not stream:
                    return
                del self.streams[stream.incarnation]
            else:
                self.reports.append(event)
            self.tell(event)

    def deliver_again(self, index: int) -> None:
        """A report arrives a second time, late."""
        if self.reports:
            self.tell(self.reports[index % len(self.reports)])

    def deliver_down(self, worker: Worker, count: int = 1) -> None:
        """The worker reads `count` commands."""
        for _ in range(count):
            stream = worker.stream
            if not worker.acts or stream is None or not stream.down:
                return
            self._obey(worker, stream.down.popleft())

    def _obey(self, worker: Worker, command: Action) -> None:
        match command:
            case Execute():
                self._take(worker, command)
            case CancelTask():
                held = worker.tasks.get(command.task_id)
                if held is None:
                    return
                if held.phase is not Phase.RUNNING:
                    kind = FailureKind.HANDED_BACK if command.only_if_waiting else FailureKind.CANCELLED
                    self._end_task(worker, held, kind)
                elif not command.only_if_waiting:
                    held.cancelled = True
            case ReleaseSlot():
                worker.outputs.pop(command.task_id, None)
            case Refuse(reason=RefusalReason.FENCED):
                self.cut(worker)
                self.reincarnate(worker)
            case Refuse():
                worker.refused = command.message
                self.cut(worker)
            case _:
                pass

    def _take(self, worker: Worker, execute: Execute) -> None:
        assert execute.task_id not in worker.seen, "a task was sent twice"
        worker.seen.add(execute.task_id)
        owned = len(worker.tasks) + 1
        assert owned <= worker.capacity + self.policy.prefetch, f"I4: {worker.pod} was given {owned} tasks"
        source = execute.input
        held = Held(execute, Phase.WAITING)
        if isinstance(source, Where) and source.incarnation != worker.incarnation:
            assert source.generation == worker.generation, "a tensor would cross generations"
            held.pulls, held.phase = True, Phase.PULLING
        worker.tasks[execute.task_id] = held
        if worker.draining:
            self._end_task(worker, held, FailureKind.HANDED_BACK)
        elif held.pulls:
            assert worker.slots_used <= worker.slots, "the pool's slots are overdrawn by an input"
            if worker.slots_used > worker.real_slots:
                self._end_task(worker, held, FailureKind.POOL_FULL)

    def _end_task(self, worker: Worker, held: Held, kind: FailureKind) -> None:
        del worker.tasks[held.execute.task_id]
        self.report(worker, StageFailed(worker.incarnation, held.execute.task_id, kind, kind.name.lower()))

    def source_worker(self, where: Where) -> Worker | None:
        return next((w for w in self.workers if w.incarnation == where.incarnation and w.acts), None)

    def work(self, worker: Worker, index: int = 0) -> bool:
        """One small thing that the worker does next for its task number `index`; False if there is nothing."""
        if not worker.acts or not worker.tasks:
            return False
        held = list(worker.tasks.values())[index % len(worker.tasks)]
        source = held.execute.input
        if held.phase is Phase.PULLING:
            assert isinstance(source, Where)
            owner = self.source_worker(source)
            if owner is None or source.task_id not in owner.outputs:
                self._end_task(worker, held, FailureKind.TRANSFER)
            else:
                assert owner.generation == worker.generation
                held.content, held.phase = source.content, Phase.WAITING
                self.report(worker, InputReceived(worker.incarnation, held.execute.task_id))
            return True
        if held.phase is Phase.WAITING:
            if sum(h.phase is Phase.RUNNING for h in worker.tasks.values()) >= worker.capacity:
                return False
            if isinstance(source, Where) and not held.pulls:
                if source.task_id not in worker.outputs:
                    self._end_task(worker, held, FailureKind.TRANSFER)
                    return True
                held.content = source.content
            held.phase = Phase.RUNNING
            self.computed[held.execute.job_id, held.execute.stage] += 1
            self.report(worker, Progressed(worker.incarnation, held.execute.task_id, 0, _STEPS))
            return True
        if held.cancelled:
            self._end_task(worker, held, FailureKind.CANCELLED)
            return True
        held.step += 1
        if held.step <= _STEPS and held.execute.stage is Stage.DENOISE:
            self.report(worker, Progressed(worker.incarnation, held.execute.task_id, held.step, _STEPS))
            return True
        self._finish(worker, held)
        return True

    def _finish(self, worker: Worker, held: Held) -> None:
        execute = held.execute
        if execute.stage is not Stage.ENCODE:
            expected = content_of(Stage(execute.stage - 1), execute.job_id)
            assert held.content == expected, f"{execute.task_id} computed from {held.content}"
        del worker.tasks[execute.task_id]
        content = content_of(execute.stage, execute.job_id)
        output = result = None
        if execute.stage is Stage.DECODE:
            result = content
        else:
            output = Where(worker.incarnation, execute.task_id, worker.generation, content)
        done = StageResult(execute.task_id, execute.job_id, execute.stage, output, result, compute_seconds=1.0)
        if output is not None and worker.slots_used + 1 > worker.real_slots:
            self.report(worker, StageFailed(worker.incarnation, execute.task_id, FailureKind.POOL_FULL, "pool full"))
            return
        worker.outputs[execute.task_id] = done
        assert worker.slots_used <= worker.slots, "the pool's slots are overdrawn by an output"
        self.report(worker, StageDone(worker.incarnation, done))

    def fail_task(self, worker: Worker, index: int, kind: FailureKind) -> None:
        if worker.acts and worker.tasks:
            held = list(worker.tasks.values())[index % len(worker.tasks)]
            if kind is FailureKind.TRANSFER and held.phase is not Phase.PULLING:
                return
            if kind is FailureKind.MODEL_ERROR and held.phase is not Phase.RUNNING:
                return
            self.store[held.execute.job_id].tainted = True
            self._end_task(worker, held, kind)

    # ------------------------------------------------------------ time

    def advance(self, seconds: float) -> None:
        """Time passes; the router is woken when it asked to be. Workers that can, send their heartbeats."""
        end = self.now + seconds
        while self.now < end:
            due = self.core.wakeup()
            step = min(end, self.now + self.policy.lease / 4)
            if due is not None:
                step = min(step, max(due, self.now + 1e-3))
            self.now = step
            if seconds >= self.policy.lease / 4:
                for worker in self.workers:
                    if worker.acts and worker.stream is not None:
                        self.report(worker, PeerHeartbeat(worker.incarnation, worker.draining))
                        self.deliver_up(worker, len(worker.stream.up))
            self.tell(Tick())

    def settle_streams(self) -> None:
        """Everything on its way arrives."""
        busy = True
        while busy:
            busy = False
            for worker in list(self.workers):
                if worker.stream is not None and worker.stream.up:
                    self.deliver_up(worker, len(worker.stream.up))
                    busy = True
                if worker.acts and worker.stream is not None and worker.stream.down:
                    self.deliver_down(worker, len(worker.stream.down))
                    busy = True
            while self.to_record:
                self.record_one()
                busy = True

    def run_round(self) -> None:
        """Every worker does one small thing for each of its tasks, then all messages arrive."""
        for worker in list(self.workers):
            self.tend(worker)
            for index in range(len(worker.tasks)):
                self.work(worker, index)
        self.settle_streams()

    def tend(self, worker: Worker) -> None:
        """What a worker does of itself: attaches, and leaves when it was told to and holds nothing."""
        if not worker.acts:
            return
        if worker.stream is None or not worker.stream.router_open:
            self.attach(worker)
        elif worker.draining and not worker.tasks:
            if worker.outputs:
                return
            self.report(worker, PeerDrained(worker.incarnation))
            self.deliver_up(worker, len(worker.stream.up))
            worker.alive = False
            worker.stream = None

    def run(self, rounds: int = 200, seconds: float = 0.5) -> None:
        """Runs until every job has ended and its end is recorded, or the rounds are over."""
        for _ in range(rounds):
            if all(job.status is not None for job in self.store.values()):
                return
            self.run_round()
            self.advance(seconds)

    # ------------------------------------------------------------ what must always hold

    def _check_execute(self, action: Execute) -> None:
        job = self.store[action.job_id]
        assert job.status is None, "I1: a task of an ended job"
        assert not self.ended_this_life[action.job_id], "I1: a task of an ended job"
        assert job.kills < self.policy.max_kills, "I11: a poison job runs on"
        live = self.live_tasks.setdefault(action.job_id, set())
        assert not live, f"{action.job_id} has {live} under way and is started again"
        live.add(action.task_id)
        stream = self.streams.get(action.incarnation)
        assert stream is not None, "a task is sent to a peer that is not connected"
        assert action.stage in stream.worker.stages
        if isinstance(action.input, Where):
            assert action.input.generation == stream.worker.generation, "a tensor would cross generations"
            assert action.input.content == content_of(Stage(action.stage - 1), action.job_id)
        else:
            assert action.stage is Stage.ENCODE

    def _check_release(self, action: ReleaseSlot) -> None:
        """I3: nobody who may be heard again is reading the slot."""
        unknown_may_read = self.now < self.started_at + self.policy.settle + self.policy.grace
        for worker in self.workers:
            if not worker.alive:
                continue
            if not any(self._reads(source, action) for source in self._reading(worker)):
                continue
            fenced = self.fenced_at.get(worker.incarnation)
            if fenced is not None:
                assert self.now >= fenced + self.policy.grace, "I3: released before the grace was over"
            elif worker.incarnation in self.core.peers or unknown_may_read:
                raise AssertionError(f"I3: {action.task_id} is released while {worker.pod} reads it")

    @staticmethod
    def _reads(source: Where | None, action: ReleaseSlot) -> bool:
        return source is not None and (source.incarnation, source.task_id) == (action.incarnation, action.task_id)

    def _reading(self, worker: Worker) -> Iterable[Where | None]:
        for held in worker.tasks.values():
            yield held.reads_slot
        if worker.stream is not None and worker.stream.router_open:
            for command in worker.stream.down:
                if isinstance(command, Execute) and isinstance(command.input, Where):
                    yield command.input

    def _check_kills(self, lost: PeerLost, batch: list[Action]) -> None:
        """I11: exactly the jobs that are known to have run on it are counted."""
        ran = set(self.known_running.pop(lost.incarnation, {}).values())
        for job_id in list(self.live_tasks):
            self.live_tasks[job_id] -= {
                task_id for task_id in self.live_tasks[job_id] if self.task_peer(task_id) == lost.incarnation
            }
        if lost.reason == "drained":
            ran = set()
        start = batch.index(lost)
        killed = []
        for action in batch[start + 1 :]:
            if isinstance(action, PeerLost):
                break
            if isinstance(action, JobKilled):
                killed.append(action.job_id)
        assert set(killed) == ran, f"I11: {killed} are blamed, {ran} ran"

    def task_peer(self, task_id: str) -> str | None:
        for peer in self.core.peers.values():
            if task_id in peer.tasks:
                return peer.incarnation
        return next(
            (a.incarnation for a in reversed(self.log) if isinstance(a, Execute) and a.task_id == task_id), None
        )

    def check_always(self) -> None:
        for peer in self.core.peers.values():
            limit = peer.capacity + peer.prefetch
            assert 0 <= peer.credits <= limit, "I4"
            if peer.takes_tasks:
                assert peer.credits == limit - len(peer.tasks), "I4: credits are what is not owned"

    # ------------------------------------------------------------ the end

    def heal(self) -> None:
        """No more faults: what is frozen thaws, and the newest generation has every role."""
        for worker in self.workers:
            self.thaw(worker)
        newest = max((w.generation for w in self.workers), default="g1")
        self.spawn(*ALL, generation=newest)

    def check_at_rest(self) -> None:
        for job_id, job in self.store.items():
            assert job.status is not None, f"I6, I7: {job_id} never ended: {self.core.jobs.get(job_id)}"
            assert job.ends_recorded == 1, "I1"
            self._check_end(job_id, job)
        assert not self.core.jobs
        for worker in self.workers:
            if worker.alive and worker.stream is not None and worker.stream.router_open:
                assert not worker.tasks, f"{worker.pod} still has tasks"
                assert not worker.outputs, f"{worker.pod} was never told to release {set(worker.outputs)}"
        for peer in self.core.peers.values():
            assert not peer.tasks, "I4: credits are not back"
            assert not peer.outputs
            assert not peer.slots_used

    def _check_end(self, job_id: str, job: StoredJob) -> None:
        if job.status is JobStatus.COMPLETED:
            assert job.result == content_of(Stage.DECODE, job_id)
        elif job.status is JobStatus.CANCELLED:
            assert job.cancel_asked
        elif job.kind is FailureKind.POISON:
            assert job.kills >= self.policy.max_kills, "I11: an innocent job was failed as poison"
        elif job.kind is FailureKind.DEADLINE:
            assert job.deadline <= self.now
        else:
            assert job.tainted, f"I6: {job_id} failed with {job.kind.name} though all that happened was losses"
