"""What is known of every job and task from events and actions alone, and the invariants that follow.

Kept apart from the core's own book, so that the core can't be wrong in both. The book itself is held against what it
sums up: counts against the things counted, states against tasks and inputs, the scheduler against a fresh one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from diffusion_router.core import (
    Action,
    AskCheckpoint,
    CancelTask,
    Core,
    Event,
    Execute,
    FailureKind,
    JobEnded,
    JobKilled,
    JobState,
    JobStatus,
    ParkTask,
    Peer,
    PeerLost,
    PeerRegistered,
    Process,
    Progressed,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    Welcome,
)
from diffusion_router.core.lifecycle import TRANSITIONS
from diffusion_router.core.offers import of_scheduler
from diffusion_router.core.scheduler import Scheduler
from unit.core.workers import Where, Worker, checkpoint_of, content_of


@dataclass
class StoredJob:
    """A job's row in the store, which outlives the router."""

    deadline: float
    kills: int = 0
    status: JobStatus | None = None
    kind: FailureKind = FailureKind.UNSPECIFIED
    message: str = ""
    result: object = None
    ends_recorded: int = 0
    cancel_asked: bool = False
    # Something other than a loss went wrong with it: it may fail.
    tainted: bool = False
    adapters: frozenset[str] = frozenset()
    scheduler: str = ""
    batch: str = ""

    @property
    def needs(self) -> frozenset[str]:
        return self.adapters | of_scheduler(self.scheduler)


class Ledger:
    """One life of the router."""

    def __init__(self, core: Core, store: dict[str, StoredJob], started_at: float) -> None:
        self._core = core
        self._store = store
        # Until then a consumer that this life has not heard of may be reading.
        self._unknown_until = started_at + core.policy.settle + core.policy.grace
        self._ended: Counter[str] = Counter()
        # Tasks under way that were not cancelled, by job; where each is; those that are known to have started.
        self._live: dict[str, set[str]] = {}
        self._place: dict[str, str] = {}
        self._running: dict[str, str] = {}
        self._fenced_at: dict[str, float] = {}
        self._states: dict[str, JobState] = {}
        # Peers as they were before the event, and by pod name what ran where nothing was heard any more.
        self._known: dict[str, Peer] = {}
        self._known_tasks: dict[str, str] = {}
        self._silent: dict[str, tuple[Process | None, set[str]]] = {}

    # ------------------------------------------------------------ what the router hears

    def before(self, event: Event) -> None:
        match event:
            case Progressed() if self._place.get(event.task_id) == event.incarnation:
                self._running[event.task_id] = event.incarnation
            case StageDone() if event.incarnation in self._core.peers:
                self._close(event.result.task_id)
            case StageFailed() if event.incarnation in self._core.peers:
                self._close(event.task_id)
            case PeerRegistered() if event.incarnation not in self._fenced_at:
                held = {task.task_id for task in event.tasks}
                gone = [task for task, place in self._place.items() if place == event.incarnation and task not in held]
                for task_id in gone:
                    self._close(task_id)

    def adopted(self, event: PeerRegistered) -> None:
        """Tasks of an earlier life that go on."""
        peer = self._core.peers.get(event.incarnation)
        for held in event.tasks if peer is not None else ():
            task, job = peer.tasks.get(held.task_id), self._core.jobs.get(held.job_id)
            if task is not None and job is not None and job.task is task:
                self._live.setdefault(job.id, set()).add(task.id)
                self._place[task.id] = event.incarnation
                if held.started:
                    self._running[task.id] = event.incarnation

    def _close(self, task_id: str) -> None:
        self._live.get(_job_of(task_id), set()).discard(task_id)
        self._place.pop(task_id, None)
        self._running.pop(task_id, None)

    # ------------------------------------------------------------ what the router says

    def executed(self, action: Execute, generation: str, stages: frozenset[Stage]) -> None:
        if action.copy:
            self._copied(action, generation)
            return
        job = self._store[action.job_id]
        assert job.status is None, "I1: a task of an ended job"
        assert not self._ended[action.job_id], "I1: a task of an ended job"
        assert job.kills < self._core.policy.max_kills, "I11: a poison job runs on"
        live = self._live.setdefault(action.job_id, set())
        assert not live, f"{action.job_id} has {live} under way and is started again"
        live.add(action.task_id)
        self._place[action.task_id] = action.incarnation
        assert action.stage in stages
        if action.stage is Stage.DENOISE:
            assert job.needs <= self._core.peers[action.incarnation].offered, "it does not offer what it needs"
        if isinstance(action.input, Where):
            assert action.input.generation == generation, "a tensor would cross generations"
            assert action.input.content == _feeding(action.input, action.stage, action.job_id)
        else:
            assert action.stage is Stage.ENCODE
            wanted = self._core.jobs[action.job_id].begins_in
            could = self._could_end_in(wanted, job.needs)
            assert generation == wanted or not could, f"it should have begun in {wanted}"

    def _copied(self, action: Execute, generation: str) -> None:
        source, keeper = action.input, self._core.peers[action.incarnation]
        assert isinstance(source, Where)
        if action.stage in keeper.stages:
            assert keeper.can_copy
        else:
            assert action.stage is Stage.ENCODE
            assert keeper.keeps_conditioning, "a copy for a peer that can't use it"
        assert source.generation == generation, "a tensor would cross generations"
        assert source.incarnation != action.incarnation, "a copy of its own"
        made = _feeding(source, Stage(action.stage + (source.parked is None)), action.job_id)
        assert source.content == made, f"{source} is no output of this stage"

    def _could_end_in(self, generation: str, needs: frozenset[str]) -> bool:
        """Every role that anybody has is there, in that generation too, with a denoiser that offers what it needs."""
        staying = [peer for peer in self._core.peers.values() if not peer.draining]
        of_generation = {stage for peer in staying if peer.generation == generation for stage in peer.stages}
        denoisers = [peer for peer in staying if peer.generation == generation and Stage.DENOISE in peer.stages]
        if denoisers and not any(needs <= peer.offered for peer in denoisers):
            return False
        return Stage.ENCODE in of_generation and of_generation == {stage for peer in staying for stage in peer.stages}

    def cancelled(self, action: CancelTask) -> None:
        if not action.only_if_waiting:
            self._close(action.task_id)

    def parking(self, action: ParkTask) -> None:
        peer = self._core.peers[action.incarnation]
        task = peer.tasks[action.task_id]
        assert task.started, "it has made no step"
        assert task.resumable, "it can't be parked"

    def asked(self, action: AskCheckpoint) -> None:
        peer = self._core.peers[action.incarnation]
        task = peer.tasks[action.task_id]
        assert self._core.policy.checkpoint, "nobody wants checkpoints"
        assert task.resumable, "nobody could go on with it"
        assert 0 <= action.within <= self._core.policy.checkpoint
        others = [other for other in self._core.peers.values() if other.generation == peer.generation]
        able = [other for other in others if Stage.DENOISE in other.stages and other.can_copy and other is not peer]
        assert able, "nobody could keep it"

    def killed(self, action: JobKilled) -> None:
        job = self._store[action.job_id]
        assert action.kills == job.kills + 1
        job.kills = action.kills

    def ended(self, action: JobEnded) -> None:
        self._ended[action.job_id] += 1
        assert self._ended[action.job_id] == 1, f"I1: {action.job_id} ended twice in one life"
        assert self._store[action.job_id].status is None, f"I1: {action.job_id} had ended before"

    def lost(self, action: PeerLost, now: float) -> None:
        self._fenced_at[action.incarnation] = now
        for task_id in [task for task, place in self._place.items() if place == action.incarnation]:
            self._close(task_id)

    def check_blame(self, event: Event, actions: list[Action]) -> None:
        """I11: blamed are exactly the jobs that are known to have run on a process that is known to have died."""
        expected = set()
        for action in actions:
            if isinstance(action, PeerLost):
                peer = self._known[action.incarnation]
                ran = {_job_of(task) for task, place in self._running.items() if place == action.incarnation}
                if action.reason == "lease expired":
                    self._silent[peer.pod_name] = (peer.process, set() if peer.draining else ran)
                elif action.reason != "drained" and not peer.draining:
                    expected |= ran
        if isinstance(event, PeerRegistered) and any(isinstance(action, Welcome) for action in actions):
            process, ran = self._silent.pop(event.pod_name, (None, set()))
            if process is not None and event.process is not None and event.process.follows(process):
                expected |= {job_id for job_id in ran if self._store[job_id].status is None and not self._ended[job_id]}
        if isinstance(event, PeerRegistered) and event.incarnation in self._fenced_at:
            # It says that it lives, if it is the same.
            process, _ = self._silent.get(event.pod_name, (None, set()))
            if process == event.process:
                self._silent.pop(event.pod_name, None)
        if isinstance(event, StageFailed) and event.kind is FailureKind.STALLED and event.incarnation in self._known:
            task = self._known_tasks.get(event.task_id)
            expected |= {task} - {None}
        killed = {action.job_id for action in actions if isinstance(action, JobKilled)}
        assert killed == expected, f"I11: {killed} are blamed, {expected} ran where a process died"
        self._known = dict(self._core.peers)
        self._known_tasks = {job.task.id: job.id for job in self._core.jobs.values() if job.task is not None}

    def released(self, action: ReleaseSlot, workers: Iterable[Worker], now: float) -> None:
        """I3: nobody whose report may still be heard is reading the slot."""
        for worker in workers:
            if not worker.alive or not any(_is(source, action) for source in _reading(worker)):
                continue
            fenced = self._fenced_at.get(worker.incarnation)
            if fenced is not None:
                assert now >= fenced + self._core.policy.grace, "I3: released before the grace was over"
            else:
                known = worker.incarnation in self._core.peers
                assert not known, f"I3: {action.task_id} is released while {worker.pod} reads it"
                assert now >= self._unknown_until, f"I3: {action.task_id} is released while {worker.pod} may read it"

    # ------------------------------------------------------------ what must hold

    def check_credits(self) -> None:
        for peer in self._core.peers.values():
            limit = peer.capacity + peer.prefetch
            assert 0 <= peer.credits <= limit, "I4"
            assert peer.parking == sum(task.parking for task in peer.tasks.values())
            assert len(peer.tasks) <= limit + peer.parking, "I4: it owns more than it may"
            if peer.takes_tasks:
                assert peer.credits == max(0, limit - len(peer.tasks) + peer.parking), "I4: what is not owned"

    def check_jobs(self) -> None:
        """Every job is in a state that the table leads to, and has what the state says."""
        for job in self._core.jobs.values():
            before = self._states.get(job.id, JobState.QUEUED)
            assert job.state in _reachable(before), f"{job.id} came from {before.name} to {job.state.name}"
            assert (job.task is not None, job.input is not None) == (job.state.has_task, job.state.has_input), job
            assert job.state.stage in (job.stage, None)
            if job.task is not None:
                assert job.task.stage is job.stage
                assert self._core.peers[job.task.incarnation].tasks[job.task.id] is job.task
                assert job.input is job.task.input or job.input.steps_done == job.task.input.steps_done
            if job.input is not None:
                assert job.input.feeds is job.stage
        self._states = {job.id: job.state for job in self._core.jobs.values()}

    def check_sums(self) -> None:
        core = self._core
        assert +core.counts == Counter(job.state for job in core.jobs.values())
        unfinished = [job for job in core.jobs.values() if not job.status.ended]
        assert core.unfinished == Counter((job.stage, job.shape) for job in unfinished)
        assert core.waiting() == sum(job.task is None for job in unfinished)
        computed = [task for peer in core.peers.values() for task in peer.tasks.values() if task.begun is not None]
        assert {key: begun.count for key, begun in core.running.items()} == Counter(
            (task.stage, task.begun[1]) for task in computed
        )
        capacity: Counter[frozenset[Stage]] = Counter()
        for peer in core.peers.values():
            capacity[peer.stages] += (1 if peer.gathers else peer.capacity) if peer.takes_tasks else 0
        assert core.capacity.places == +capacity
        for peer in core.peers.values():
            kept = sum(output.stage is not Stage.DECODE for output in peer.outputs.values())
            taken = [*peer.tasks.values(), *peer.copies.values()]
            assert peer.slots_used == kept + sum(task.slots for task in taken)
            assert peer.bytes_used == sum(held.nbytes for held in (*peer.outputs.values(), *taken))
            for copy in peer.copies.values():
                assert copy.copies is not None
                assert copy.copies.copied_by == copy.id
                assert copy.id in copy.copies.readers, "I3: what is copied is being read"
            for output in peer.outputs.values():
                for job_id in output.listed_by:
                    job = core.jobs.get(job_id)
                    assert job is None or job.outputs[output.task_id] is output
                assert output.wanted_by <= output.listed_by

    def check_checkpoints(self) -> None:
        """Whatever is kept for a job that computes is kept elsewhere, or on its way there, and none twice."""
        core = self._core
        for job in core.jobs.values():
            checkpoints = [output for output in job.outputs.values() if output.parked and job.id in output.wanted_by]
            spare = [output for output in checkpoints if output is not job.input]
            if job.task is None:
                assert all(output.steps_done <= job.step for output in spare), (
                    f"{job.id} goes back further than it must"
                )
                continue
            assert not spare or job.task.stage is Stage.DENOISE, f"{job.id} needs no checkpoint any more"
            elsewhere = [output for output in spare if output.incarnation != job.task.incarnation]
            assert all(output.copied_by for output in spare if output not in elsewhere), "it protects from nothing"
        for peer in core.peers.values():
            for task in peer.tasks.values():
                assert (
                    not task.checkpoint_id or task.slots == peer.slots_for(task.stage, task.input) + 1 or task.input_id
                )

    def check_encodings(self) -> None:
        """I17: whoever waits for another's encoding waits for one that is under way, and nobody encodes beside it."""
        core = self._core
        for conditioning, encoding in core.encodings.items():
            leader, output = encoding.leader, encoding.output
            assert leader or output, f"{list(encoding.followers)} wait for nobody"
            assert not (encoding.followers and output), "they wait for what is there"
            assert not leader or (leader.stage is Stage.ENCODE and not leader.status.ended)
            assert not output or core.peers[output.incarnation].outputs[output.task_id] is output
            for job in [*encoding.followers.values(), *([leader] if leader else ())]:
                assert core.jobs[job.id] is job
                assert job.conditioning == conditioning
            for job in encoding.followers.values():
                assert job.stage is Stage.ENCODE
                assert job.task is None, f"{job.id} encodes and waits for another that does"
        for job in core.jobs.values():
            if job.conditioning and job.stage is Stage.ENCODE and not (job.status.ended or job.task):
                known = core.encodings[job.conditioning]
                assert job is known.leader or job.id in known.followers, f"{job.id} is forgotten"
            assert job.follows == (job.id in getattr(core.encodings.get(job.conditioning), "followers", ()))

    def check_cached(self, workers: Iterable[Worker]) -> None:
        """What is kept for jobs to come is within its share, in nobody's way, really there, and found."""
        core = self._core
        holders = {worker.incarnation: worker for worker in workers if worker.alive}
        for peer in core.peers.values():
            cached = peer.cached
            if cached and peer.draining:
                assert core.now < peer.keeps_until, "a worker that leaves waits for what nobody needs"
                handed = (output for output in peer.outputs.values() if output.copied_by and not output.wanted_by)
                waits = sum(1 for _ in handed) == core.policy.passed_on_at_once
                assert waits or not peer.connected, "it waits for nobody to take it over"
            assert len(cached) <= peer.cache_share * peer.room
            assert sum(output.nbytes for output in cached.values()) == peer.cached_bytes
            assert not peer.pool_bytes or peer.cached_bytes <= peer.cache_share * peer.pool_bytes
            assert peer.slots_used <= peer.room or not cached, "it takes room that tasks need"
            assert peer.free_slots == peer.room - peer.slots_used + len(cached)
            for task_id, output in cached.items():
                assert peer.outputs[task_id] is output
                assert not (output.wanted_by or output.readers or output.sharers), "somebody needs it"
                assert core.encodings[output.conditioning].output is output, "nobody will find it"
                holder = holders.get(peer.incarnation)
                assert holder is None or task_id in holder.outputs, f"{holder.pod} does not hold it"
            idle = (output for output in peer.outputs.values() if not (output.wanted_by or output.readers))
            assert all(output.task_id in cached for output in idle), "it is neither needed nor kept nor released"

    def check_nothing_is_overlooked(self) -> None:
        """A scheduler that looks at everything finds nothing that the one that looks at changes has left."""
        core = self._core
        ordering = core.policy.scheduling.ordering(core.estimates)
        fresh: Scheduler[object] = Scheduler(core.jobs, core.peers, ordering, core.estimates, core.batches)
        for peer in core.peers.values():
            fresh.seat(peer)
        for job in core.jobs.values():
            if job.state.stage is not None and not job.state.has_task and not job.follows:
                fresh.push(job)
        started: list[str] = []
        for stage in Stage:
            stranded = fresh.assign(
                stage, core.now, lambda job, peer, _: started.append(f"{job.id} on {peer.pod_name}")
            )
            assert not stranded, "they should have started over"
        assert not started, f"{started} could have been started"
        assert not list(fresh.to_ask_back()), "tasks wait while others could start them"

    def check_at_rest(self, workers: Iterable[Worker], now: float) -> None:
        for job_id, job in self._store.items():
            assert job.status is not None, f"I6, I7: {job_id} never ended: {self._core.jobs.get(job_id)}"
            assert job.ends_recorded == 1, "I1"
            self._check_end(job_id, job, now)
        assert not self._core.jobs
        for worker in workers:
            if worker.alive and worker.attached:
                assert not worker.tasks, f"{worker.pod} still has tasks"
                peer = self._core.peers.get(worker.incarnation)
                kept = peer.cached.keys() if peer is not None else set()
                assert worker.outputs.keys() == kept, f"{worker.pod} was never told to release {set(worker.outputs)}"
        for peer in self._core.peers.values():
            assert not peer.tasks, "I4: credits are not back"
            assert peer.outputs.keys() == peer.cached.keys(), "a slot is not back"

    def _check_end(self, job_id: str, job: StoredJob, now: float) -> None:
        if job.status is JobStatus.COMPLETED:
            assert job.result == content_of(Stage.DECODE, job_id)
        elif job.status is JobStatus.CANCELLED:
            assert job.cancel_asked
        elif job.kind is FailureKind.POISON:
            assert job.kills >= self._core.policy.max_kills, "I11: an innocent job was failed as poison"
        elif job.kind is FailureKind.DEADLINE:
            assert job.deadline <= now
        else:
            assert job.tainted, f"I6: {job_id} failed with {job.kind.name} though all that happened was losses"


def _feeding(source: Where, stage: Stage, job_id: str) -> str:
    """What a stage of this job reads: a checkpoint of it, or what the stage before made."""
    if source.parked is not None:
        assert stage is Stage.DENOISE
        return checkpoint_of(job_id, source.parked.step)
    return content_of(Stage(stage - 1), job_id)


def _reachable(state: JobState) -> set[JobState]:
    found, todo = {state}, [state]
    while todo:
        new = set(TRANSITIONS[todo.pop()].values()) - found
        found |= new
        todo += new
    return found


def _job_of(task_id: str) -> str:
    return task_id.split(".")[0]


def _is(source: Where, action: ReleaseSlot) -> bool:
    return (source.incarnation, source.task_id) == (action.incarnation, action.task_id)


def _reading(worker: Worker) -> Iterator[Where]:
    """What it reads, or will when it gets a command that is on its way."""
    for held in worker.tasks.values():
        if held.reads_slot is not None:
            yield held.reads_slot
    if worker.stream is not None:
        for command in worker.stream.down:
            if isinstance(command, Execute) and isinstance(command.input, Where):
                yield command.input
