"""A simulated world around the router's core: workers, their streams, a store, clients, a clock, and what goes wrong.

Streams are first-in first-out each way and may be cut at any point; workers die, freeze, thaw and come back; the store
outlives the router. Nothing happens by itself: rules and directed tests move the world. Every action that the core
emits is checked against the invariants at the moment it is emitted (`ledger`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from diffusion_router.core import (
    Action,
    Adapters,
    AskCheckpoint,
    CancelRequested,
    CancelTask,
    Core,
    Event,
    Execute,
    FailureKind,
    JobEnded,
    JobKilled,
    JobRecorded,
    JobSubmitted,
    ParkTask,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerLost,
    PeerRegistered,
    Policy,
    Process,
    Refuse,
    ReleaseSlot,
    Stage,
    Tick,
    Welcome,
)
from unit.core.ledger import Ledger, StoredJob
from unit.core.workers import Phase, Stream, Worker

POLICY = Policy(lease=6.0, settle=2.0, grace=4.0, stall=5.0)
FAR = 1e9


class World:
    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.now = 0.0
        self.life = 0
        self.names = 0
        self.starts = 0
        self.store: dict[str, StoredJob] = {}
        self.workers: list[Worker] = []
        # All that the router ever said.
        self.log: list[Action] = []
        self._begin_life()

    def _begin_life(self) -> None:
        self.life += 1
        self.core = Core(self.policy, epoch=f"e{self.life}", now=self.now)
        self.ledger = Ledger(self.core, self.store, self.now)
        # The stream that the router reads for each incarnation; ends that the store has yet to write down.
        self.streams: dict[str, Stream] = {}
        self.to_record: deque[JobEnded] = deque()
        self.heard: deque[Event] = deque(maxlen=20)

    # ------------------------------------------------------------ router

    def restart_router(self) -> None:
        for worker in self.workers:
            if worker.stream is not None:
                worker.stream.router_open = False
        self._begin_life()
        for job_id, job in self.store.items():
            if job.status is None:
                _, _, conditioning = job_id.partition("@")
                self.tell(
                    JobSubmitted(
                        job_id,
                        job.deadline,
                        kills=job.kills,
                        restored=True,
                        conditioning=conditioning,
                        adapters=job.adapters,
                        scheduler=job.scheduler,
                        batch=job.batch,
                    )
                )

    def tell(self, event: Event) -> list[Action]:
        self.ledger.before(event)
        actions = self.core.handle(event, self.now)
        self.log += actions
        self.ledger.check_blame(event, actions)
        if isinstance(event, PeerRegistered):
            self.ledger.adopted(event)
        for action in actions:
            self._carry_out(action)
        self.ledger.check_credits()
        self.ledger.check_jobs()
        self.ledger.check_sums()
        self.ledger.check_encodings()
        self.ledger.check_checkpoints()
        self.ledger.check_cached(self.workers)
        self.ledger.check_nothing_is_overlooked()
        return actions

    def _carry_out(self, action: Action) -> None:
        match action:
            case Execute():
                stream = self.streams.get(action.incarnation)
                assert stream is not None, "a task is sent to a peer that is not connected"
                self.ledger.executed(action, stream.generation, stream.stages)
                self._send(action.incarnation, action)
            case CancelTask():
                self.ledger.cancelled(action)
                self._send(action.incarnation, action)
            case ParkTask():
                self.ledger.parking(action)
                self._send(action.incarnation, action)
            case AskCheckpoint():
                self.ledger.asked(action)
                self._send(action.incarnation, action)
            case ReleaseSlot():
                self.ledger.released(action, self.workers, self.now)
                self._send(action.incarnation, action)
            case Welcome() | Refuse():
                self._send(action.incarnation, action)
            case PeerLost():
                self.ledger.lost(action, self.now)
                stream = self.streams.pop(action.incarnation, None)
                if stream is not None:
                    stream.router_open = False
            case JobKilled():
                self.ledger.killed(action)
            case JobEnded():
                self.ledger.ended(action)
                self.to_record.append(action)

    def _send(self, incarnation: str, action: Action) -> None:
        stream = self.streams.get(incarnation)
        if stream is not None:
            stream.down.append(action)

    def record_one(self) -> None:
        """The store writes the oldest end down."""
        if self.to_record:
            end = self.to_record.popleft()
            job = self.store[end.job_id]
            job.status, job.kind, job.message, job.result = end.status, end.kind, end.message, end.result
            job.ends_recorded += 1
            self.tell(JobRecorded(end.job_id))

    # ------------------------------------------------------------ clients

    def submit(
        self,
        deadline: float = FAR,
        shape: str = "",
        conditioning: str = "",
        adapters: Iterable[str] = (),
        scheduler: str = "",
        batch: str = "b",
        **order: Any,
    ) -> str:
        job_id = f"j{len(self.store) + 1}" + (f"@{conditioning}" if conditioning else "")
        job = self.store[job_id] = StoredJob(deadline, adapters=frozenset(adapters), scheduler=scheduler, batch=batch)
        self.tell(
            JobSubmitted(
                job_id,
                deadline,
                shape,
                conditioning=conditioning,
                adapters=job.adapters,
                scheduler=scheduler,
                batch=batch,
                **order,
            )
        )
        return job_id

    def cancel(self, job_id: str) -> None:
        self.store[job_id].cancel_asked = True
        self.tell(CancelRequested(job_id))

    # ------------------------------------------------------------ workers

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def spawn(self, *stages: Stage, attach: bool = True, pod: str = "", **settings: object) -> Worker:
        """A worker of these roles (all, if none is named)."""
        pod = pod or self.name("pod")
        self.starts += 1
        settings.setdefault("process", Process(f"uid of {pod}", self.starts))
        worker = Worker(pod, self.name("i"), frozenset(stages or Stage))
        if "slots" in settings:
            settings.setdefault("real_slots", settings["slots"])
        worker = replace(worker, prefetch=self.policy.prefetch, **settings)  # type: ignore[arg-type]
        self.workers.append(worker)
        if attach:
            worker.attach()
            self.deliver_all()
        return worker

    def find(self, incarnation: str) -> Worker | None:
        """Who serves pulls from that incarnation's pool."""
        return next((worker for worker in self.workers if worker.incarnation == incarnation and worker.acts), None)

    def work(self, worker: Worker, index: int = 0) -> bool:
        return worker.work(index, self.find)

    def work_until(self, worker: Worker, phase: Phase) -> None:
        """Its first task comes to this phase, and the router knows."""
        for _ in range(20):
            held = next(iter(worker.tasks.values()), None)
            if held is not None and held.phase is phase:
                self.deliver_all()
                return
            self.work(worker)
            self.deliver_all()
        raise AssertionError(f"{worker.pod} never came to {phase}")

    def run_to(self, worker: Worker, phase: Phase) -> None:
        """All work, until one of its tasks comes to this phase."""
        for _ in range(40):
            if any(held.phase is phase for held in worker.tasks.values()):
                return
            for other in self.workers:
                if other is not worker or not worker.tasks:
                    for index in range(len(other.tasks)):
                        self.work(other, index)
            self.work(worker)
            self.deliver_all()
        raise AssertionError(f"{worker.pod} never came to {phase}")

    def cut(self, worker: Worker, arrive: int = 0) -> None:
        """Its stream breaks after `arrive` more of its reports got through, and the router notices."""
        stream, worker.stream = worker.stream, None
        if stream is not None:
            self._read(stream, arrive)
            stream.up.clear()
            stream.down.clear()
            stream.up.append(PeerDisconnected(stream.incarnation))
            self._read(stream, 1)

    def reattach_unnoticed(self, worker: Worker) -> None:
        """Its stream breaks, and it opens another before the router notices."""
        worker.attach()

    def kill(self, worker: Worker, arrive: int = 0) -> None:
        """SIGKILL, after `arrive` more of its reports got through."""
        self.cut(worker, arrive)
        worker.alive = False
        worker.lose_everything()

    def respawn(self, worker: Worker, *, attach: bool = True, uid: str = "") -> Worker:
        """A new process in the same pod; uid: in another one of the same name."""
        same = {"generation": worker.generation, "capacity": worker.capacity, "slots": worker.slots}
        same |= {"adapters": worker.adapters, "schedulers": worker.schedulers}
        same |= {"resumable": worker.resumable, "copies": worker.copies, "checkpoints": worker.checkpoints}
        same |= {"keeps_conditioning": worker.keeps_conditioning, "seconds": worker.seconds}
        same |= {"pool_bytes": worker.pool_bytes, "cache_share": worker.cache_share}
        if uid:
            same["process"] = Process(uid, self.starts + 1)
        return self.spawn(*worker.stages, pod=worker.pod, attach=attach, real_slots=worker.real_slots, **same)

    def fail_task(self, worker: Worker, index: int, kind: FailureKind) -> None:
        """Something other than a loss goes wrong in a task, if it is where that can be."""
        phase = {FailureKind.TRANSFER: Phase.PULLING}.get(kind, Phase.RUNNING)
        held = list(worker.tasks.values())[index % len(worker.tasks)] if worker.acts and worker.tasks else None
        if held is not None and held.phase is phase:
            self.store[held.execute.job_id].tainted = True
            worker.end_task(held, kind)

    # ------------------------------------------------------------ streams

    def deliver_up(self, worker: Worker, count: int = 1) -> None:
        if worker.stream is not None:
            self._read(worker.stream, count)

    def _read(self, stream: Stream, count: int) -> None:
        """The router reads reports. A stream that it closed, or that was superseded, is read no more."""
        for _ in range(min(count, len(stream.up))):
            event = stream.up.popleft()
            if not stream.router_open:
                continue
            if isinstance(event, PeerRegistered):
                older = self.streams.get(event.incarnation)
                if older is not None:
                    older.router_open = False
                self.streams[event.incarnation] = stream
            elif isinstance(event, PeerDisconnected):
                stream.router_open = False
                if self.streams.get(event.incarnation) is not stream:
                    continue
                del self.streams[event.incarnation]
            else:
                self.heard.append(event)
            self.tell(event)

    def deliver_again(self, index: int) -> None:
        """A report arrives a second time, late."""
        if self.heard:
            self.tell(self.heard[index % len(self.heard)])

    def deliver_down(self, worker: Worker, count: int = 1) -> None:
        for _ in range(count):
            if worker.acts and worker.stream is not None and worker.stream.down:
                worker.obey(worker.stream.down.popleft(), lambda: self.name("i"))

    def deliver_all(self) -> None:
        """Everything on its way arrives, and every end is written down."""
        busy = True
        while busy:
            busy = bool(self.to_record)
            for worker in list(self.workers):
                if worker.stream is not None and (worker.stream.up or (worker.acts and worker.stream.down)):
                    busy = True
                    self.deliver_up(worker, len(worker.stream.up))
                    self.deliver_down(worker, len(worker.stream.down))
            while self.to_record:
                self.record_one()

    # ------------------------------------------------------------ time

    def advance(self, seconds: float) -> None:
        """Time passes and the router is woken when it asked to be. In longer spans the heartbeats get through."""
        end = self.now + seconds
        beat = self.policy.lease / 4
        while self.now < end:
            due = self.core.wakeup()
            step = min(end, self.now + beat)
            self.now = step if due is None else min(step, max(due, self.now + 1e-3))
            if seconds >= beat:
                for worker in self.workers:
                    if worker.acts:
                        worker.report(PeerHeartbeat(worker.incarnation, worker.draining))
                        self.deliver_up(worker, 100)
            self.tell(Tick())

    def run_round(self) -> None:
        """Every worker does one small thing for each of its tasks, then all messages arrive."""
        for worker in list(self.workers):
            self.tend(worker)
            for index in range(len(worker.tasks)):
                self.work(worker, index)
        self.deliver_all()

    def tend(self, worker: Worker) -> None:
        """What it does of itself: attaches, says that it lives, leaves when it was told to and holds nothing."""
        if not worker.acts:
            return
        if not worker.attached:
            worker.attach()
        elif not worker.draining or worker.tasks or worker.outputs:
            worker.report(PeerHeartbeat(worker.incarnation, worker.draining))
        else:
            worker.report(PeerDrained(worker.incarnation))
            self.deliver_up(worker, 100)
            worker.alive, worker.stream = False, None

    def run(self, rounds: int = 200, seconds: float = 0.5) -> None:
        """Until every job has ended and every slot is back, or the rounds are over."""
        for _ in range(rounds):
            if self._is_at_rest():
                return
            self.run_round()
            self.advance(seconds)

    def _is_at_rest(self) -> bool:
        peers = self.core.peers
        kept = any(peer.tasks or peer.outputs.keys() != peer.cached.keys() for peer in peers.values())
        held = any(worker.acts and (self.surplus(worker) or not worker.attached) for worker in self.workers)
        return not (kept or held or self.core.jobs) and all(job.status is not None for job in self.store.values())

    def surplus(self, worker: Worker) -> set[str]:
        """What it holds for jobs that have not ended: its tasks, and outputs but those kept for jobs to come."""
        peer = self.core.peers.get(worker.incarnation)
        return {*worker.tasks, *worker.outputs} - (peer.cached.keys() if peer is not None else set())

    # ------------------------------------------------------------ the end, and what tests look at

    def heal(self) -> None:
        """No more faults: what is frozen thaws, and the newest generation has every role."""
        for worker in self.workers:
            worker.frozen = False
        wanted = frozenset(name for job in self.store.values() for name in job.adapters)
        newest = max((worker.generation for worker in self.workers), default="g1")
        self.spawn(generation=newest, adapters=Adapters(wanted))

    def check_at_rest(self) -> None:
        self.ledger.check_at_rest(self.workers, self.now)

    def said(self, kind: type[Action]) -> Iterator[Action]:
        return (action for action in self.log if isinstance(action, kind))

    @property
    def steps(self) -> Counter[tuple[str, int]]:
        """How often each step of each job was made."""
        return sum((worker.steps for worker in self.workers), Counter())

    @property
    def computed(self) -> Counter[tuple[str, Stage]]:
        """How often each stage of each job was begun."""
        return sum((worker.computed for worker in self.workers), Counter())
