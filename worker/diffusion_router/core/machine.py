"""The router's rules: `Core.handle(event, now)` returns the actions that follow.

Nothing here knows of sockets, disks, threads or the clock, so every history of losses, duplicates, reorderings and
restarts can be played in a test, and a simulator runs this very code. Design §5 numbers the invariants (I1 …) that it
keeps.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from diffusion_router.core import membership
from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import (
    Action,
    CancelRequested,
    CancelTask,
    Event,
    Execute,
    FailureKind,
    InputReceived,
    JobChanged,
    JobEnded,
    JobRecorded,
    JobStatus,
    JobSubmitted,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerRegistered,
    Policy,
    Progressed,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
    Tick,
)
from diffusion_router.core.scheduler import ReadyQueue, choose_peer, is_stranded, tasks_to_revoke
from diffusion_router.core.state import Job, Output, Peer, StageRecord, Task

# Tries kept for the stage table.
_MAX_RECORDS = 32
_PERMANENT = frozenset({FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE, FailureKind.DEADLINE})


class Core:
    """Jobs, peers and what is to be done. `epoch` is unique to this life of the router and part of every task id."""

    def __init__(self, policy: Policy, *, epoch: str, now: float) -> None:
        self.policy = policy
        self.epoch = epoch
        self.jobs: dict[str, Job] = {}
        self.peers: dict[str, Peer] = {}
        self.fenced: dict[str, float] = {}
        self.estimates = Estimates()
        # Rises with every change of the list of peers.
        self.revision = 0
        self.settle_until = now + policy.settle
        self.now = now
        self._actions: list[Action] = []
        self._ready = {stage: ReadyQueue(stage) for stage in Stage}
        self._delayed: list[tuple[float, int, str]] = []
        self._deadlines: list[tuple[float, str]] = []
        self._ghosts: list[tuple[float, int, Output, str]] = []
        self._seq = count(1)
        self._uses = count(1)
        self._handlers: dict[type, Callable[[Any], None]] = {
            JobSubmitted: self._submitted,
            CancelRequested: self._cancel_requested,
            JobRecorded: self._recorded,
            PeerRegistered: self._registered,
            PeerDisconnected: self._disconnected,
            PeerHeartbeat: self._heartbeat,
            PeerDrained: self._drained,
            InputReceived: self._input_received,
            Progressed: self._progressed,
            StageDone: self._done,
            StageFailed: self._failed,
            Tick: self._ticked,
        }

    def handle(self, event: Event, now: float) -> list[Action]:
        self.now = max(self.now, now)
        self._actions = []
        self._handlers[type(event)](event)
        self._pass_time()
        self._schedule()
        return self._actions

    def wakeup(self) -> float | None:
        """When the next Tick is due, if nothing else happens first."""
        times = [peer.lease_until for peer in self.peers.values()]
        times += [queue[0][0] for queue in (self._delayed, self._deadlines, self._ghosts) if queue]
        return min(times, default=None)

    def waiting(self) -> int:
        """Accepted jobs of which no stage has been started."""
        return sum(job.status is JobStatus.QUEUED for job in self.jobs.values())

    def capacity(self) -> dict[Stage, int]:
        return {
            stage: sum(peer.capacity for peer in self.peers.values() if stage in peer.stages and peer.takes_tasks)
            for stage in Stage
        }

    def predicted_wait(self) -> float:
        """Seconds that a job accepted now would wait in queues."""
        unfinished = (job for job in self.jobs.values() if not job.status.ended)
        return self.estimates.wait(unfinished, self.capacity())

    def emit(self, action: Action) -> None:
        self._actions.append(action)

    def still_read(self, task: Task) -> None:
        """A lost consumer may read its input until the grace is over (I3)."""
        if task.input is not None:
            heapq.heappush(self._ghosts, (self.now + self.policy.grace, next(self._uses), task.input, task.id))

    # ------------------------------------------------------------ jobs

    def _submitted(self, event: JobSubmitted) -> None:
        if event.job_id in self.jobs:
            return
        job = Job(
            id=event.job_id,
            seq=next(self._seq),
            deadline=event.deadline,
            shape=event.shape,
            kills=event.kills,
            created=self.now,
            ready_since=self.now,
            not_before=self.settle_until if event.restored else 0.0,
        )
        self.jobs[job.id] = job
        heapq.heappush(self._deadlines, (job.deadline, job.id))
        if job.kills >= self.policy.max_kills:
            self.end(job, JobStatus.FAILED, FailureKind.POISON, f"{job.kills} workers died while they ran this job")
        else:
            self.enqueue(job)

    def _cancel_requested(self, event: CancelRequested) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            self.end(job, JobStatus.CANCELLED, FailureKind.CANCELLED, "cancelled by the client")

    def _recorded(self, event: JobRecorded) -> None:
        job = self.jobs.get(event.job_id)
        if job is None or not job.status.ended:
            return
        del self.jobs[job.id]
        for output in list(job.outputs.values()):
            self.discard(output)

    def end(
        self,
        job: Job,
        status: JobStatus,
        kind: FailureKind = FailureKind.UNSPECIFIED,
        message: str = "",
        result: object | None = None,
    ) -> None:
        """Ends a job, once. A task still under way is told to stop; its credit comes back with its report."""
        if job.status.ended:
            return
        job.status, job.kind, job.message, job.result = status, kind, message, result
        self.abandon(job)
        job.input = None
        for output in list(job.outputs.values()):
            # The worker reports a finished job's result again until the store has it.
            if not (status is JobStatus.COMPLETED and output.stage is Stage.DECODE):
                self.discard(output)
        self.emit(JobEnded(job.id, status, kind, message, result))

    def abandon(self, job: Job) -> None:
        task, job.task = job.task, None
        if task is not None:
            task.abandoned = True
            self.emit(CancelTask(task.incarnation, task.id))

    def enqueue(self, job: Job, delay: float = 0.0) -> None:
        """The job waits for its stage, or for its first one where the input of this one is gone."""
        if job.status.ended:
            return
        if job.stage is not Stage.ENCODE and (job.input is None or job.input.lost):
            self.start_over(job)
            return
        job.ready_since = self.now
        job.not_before = max(job.not_before, self.now + delay)
        if job.not_before > self.now:
            heapq.heappush(self._delayed, (job.not_before, job.seq, job.id))
        else:
            self._ready[job.stage].push(job)

    def start_over(self, job: Job) -> None:
        """Everything can be computed anew from the job itself."""
        source, job.input = job.input, None
        if source is not None:
            self.discard(source)
        job.stage, job.step, job.steps = Stage.ENCODE, 0, 0
        self.enqueue(job)

    # ------------------------------------------------------------ outputs

    def keep(self, peer: Peer, result: StageResult, job: Job | None) -> Output:
        output = Output(
            task_id=result.task_id,
            job_id=result.job_id,
            stage=result.stage,
            incarnation=peer.incarnation,
            generation=peer.generation,
            descriptor=result.output,
        )
        peer.outputs[output.task_id] = output
        if job is not None:
            job.outputs[output.task_id] = output
        return output

    def discard(self, output: Output) -> None:
        output.wanted = False
        self.release_if_free(output)

    def stop_reading(self, task: Task) -> None:
        if task.input is not None:
            task.input.readers.discard(task.id)
            self.release_if_free(task.input)

    def release_if_free(self, output: Output) -> None:
        """I3: not while a consumer may be reading."""
        if output.wanted or output.readers:
            return
        job = self.jobs.get(output.job_id)
        if job is not None:
            job.outputs.pop(output.task_id, None)
        peer = self.peers.get(output.incarnation)
        if peer is not None and peer.outputs.pop(output.task_id, None) is not None:
            self.emit(ReleaseSlot(peer.incarnation, output.task_id))

    # ------------------------------------------------------------ peers

    def _registered(self, event: PeerRegistered) -> None:
        membership.register(self, event)

    def _disconnected(self, event: PeerDisconnected) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None and peer.connected:
            peer.connected = False
            self.revision += 1

    def _heartbeat(self, event: PeerHeartbeat) -> None:
        peer = self._hear(event.incarnation)
        if peer is not None and event.draining and not peer.draining:
            peer.draining = True
            self.revision += 1

    def _drained(self, event: PeerDrained) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None:
            for task in peer.tasks.values():
                task.started = False  # handed back: its job is not to blame
            membership.lose(self, peer, "drained")

    def _hear(self, incarnation: str) -> Peer | None:
        peer = self.peers.get(incarnation)
        if peer is not None:
            peer.lease_until = self.now + self.policy.lease
        return peer

    # ------------------------------------------------------------ tasks

    def _input_received(self, event: InputReceived) -> None:
        peer = self._hear(event.incarnation)
        task = peer.tasks.get(event.task_id) if peer else None
        if task is not None:
            task.received = True

    def _progressed(self, event: Progressed) -> None:
        peer = self._hear(event.incarnation)
        task = peer.tasks.get(event.task_id) if peer else None
        if task is None:
            return
        task.started = True
        job = self.jobs.get(task.job_id)
        if job is not None and job.task is task:
            if task.stage is Stage.DENOISE:
                job.step, job.steps = event.step, event.steps
            self.emit(JobChanged(job.id))

    def _done(self, event: StageDone) -> None:
        peer = self._hear(event.incarnation)
        if peer is not None:
            self.finish(peer, event.result)

    def finish(self, peer: Peer, result: StageResult) -> None:
        task = peer.tasks.pop(result.task_id, None)
        if task is None:
            if result.task_id not in peer.outputs:
                self.emit(ReleaseSlot(peer.incarnation, result.task_id))
            return
        job = self.jobs.get(task.job_id)
        mine = job is not None and job.task is task
        output = self.keep(peer, result, job if mine else None)
        if job is None or not mine:
            self.discard(output)
            self.stop_reading(task)
            return
        self.estimates.learn(task.stage, job.shape, result.compute_seconds)
        if job.records:
            job.records[-1].timings = result.timings
        job.task = None
        job.not_before = 0.0
        if task.input is not None:
            task.input.wanted = False
        self.stop_reading(task)
        self.advance(job, output, result)

    def advance(self, job: Job, output: Output, result: StageResult) -> None:
        """The job has this output: its next stage may start, or it is complete."""
        if output.stage is Stage.DECODE:
            self.end(job, JobStatus.COMPLETED, result=result.result)
            return
        job.stage, job.input = Stage(output.stage + 1), output
        self.enqueue(job)
        self.emit(JobChanged(job.id))

    def _failed(self, event: StageFailed) -> None:
        peer = self._hear(event.incarnation)
        task = peer.tasks.pop(event.task_id, None) if peer else None
        if task is None:
            return
        self.stop_reading(task)
        job = self.jobs.get(task.job_id)
        if job is None or job.task is not task:
            return
        job.task = None
        kind = event.kind
        if kind in _PERMANENT:
            self.end(job, JobStatus.FAILED, kind, event.message)
        elif kind in (FailureKind.HANDED_BACK, FailureKind.CANCELLED):
            self.enqueue(job)
        elif kind is FailureKind.POOL_FULL:
            self.enqueue(job, self.policy.backoff)
        else:
            self._retry(job, task, kind, event.message)

    def _retry(self, job: Job, task: Task, kind: FailureKind, message: str) -> None:
        job.failures += 1
        if kind is FailureKind.MODEL_ERROR:
            job.model_errors += 1
            job.avoid.add(task.incarnation)
            if job.model_errors >= self.policy.max_model_errors:
                self.end(job, JobStatus.FAILED, kind, message)
                return
        if job.failures >= self.policy.max_failures:
            text = f"{job.failures} tasks failed, the last one with {kind.name}: {message}"
            self.end(job, JobStatus.FAILED, FailureKind.RETRIES_EXHAUSTED, text)
            return
        source = job.input
        if source is not None and kind is FailureKind.TRANSFER:
            source.transfer_failures += 1
        spent = source is not None and source.transfer_failures >= self.policy.max_transfer_failures
        if spent or kind is FailureKind.INCOMPATIBLE:
            self.start_over(job)
        else:
            self.enqueue(job, min(self.policy.backoff * 2**job.failures, self.policy.max_backoff))

    # ------------------------------------------------------------ time and assignment

    def _ticked(self, event: Tick) -> None:
        """Time alone: `handle` looks at it after every event."""

    def _pass_time(self) -> None:
        for peer in [peer for peer in self.peers.values() if peer.lease_until <= self.now]:
            membership.lose(self, peer, "lease expired")
        while self._deadlines and self._deadlines[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self._deadlines)[1])
            if job is not None:
                self.end(
                    job, JobStatus.FAILED, FailureKind.DEADLINE, f"not finished by its deadline ({job.stage.name})"
                )
        while self._ghosts and self._ghosts[0][0] <= self.now:
            _, _, output, task_id = heapq.heappop(self._ghosts)
            output.readers.discard(task_id)
            self.release_if_free(output)
        while self._delayed and self._delayed[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self._delayed)[2])
            if job is not None and job.task is None and not job.status.ended:
                self._ready[job.stage].push(job)

    def _schedule(self) -> None:
        for stage in sorted(Stage, reverse=True):
            if self._ready[stage]:
                self._assign(stage)
        for task in tasks_to_revoke(self.peers.values()):
            self.emit(CancelTask(task.incarnation, task.id, only_if_waiting=True))

    def _assign(self, stage: Stage) -> None:
        peers = [peer for peer in self.peers.values() if stage in peer.stages and peer.credits]
        passed_over: list[Job] = []
        stranded: list[Job] = []
        for job in self._ready[stage].pop_each(self.jobs, self.now):
            peer = choose_peer(job, peers, self.peers)
            if peer is not None:
                self._start(job, peer)
                if not peer.credits:
                    peers.remove(peer)
                continue
            if is_stranded(job.input, stage, self.peers.values()):
                stranded.append(job)
                continue
            passed_over.append(job)
            if job.input is None or not peers:
                break  # what held this one back holds all the later ones back
        for job in passed_over:
            self._ready[stage].push(job)
        for job in stranded:
            self.start_over(job)

    def _start(self, job: Job, peer: Peer) -> None:
        stage = job.stage
        attempt = job.attempts.get(stage, 0) + 1
        job.attempts[stage] = attempt
        task = Task(
            id=f"{job.id}.{stage.name.lower()}.{attempt}.{self.epoch}",
            job_id=job.id,
            stage=stage,
            incarnation=peer.incarnation,
            attempt=attempt,
            input=job.input,
            sent_at=self.now,
            slots=peer.slots_for(stage, job.input),
        )
        if job.input is not None:
            job.input.readers.add(task.id)
        peer.tasks[task.id] = task
        peer.last_used = next(self._uses)
        job.task = task
        job.status = JobStatus.IN_PROGRESS
        job.step = 0 if stage is not Stage.DECODE else job.step
        job.records.append(StageRecord(stage, peer.pod_name, attempt, self.now - job.ready_since))
        del job.records[:-_MAX_RECORDS]
        descriptor = job.input.descriptor if job.input else None
        self.emit(Execute(peer.incarnation, task.id, job.id, stage, attempt, descriptor, job.deadline))
        self.emit(JobChanged(job.id))
