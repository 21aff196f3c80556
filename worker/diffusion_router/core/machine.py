"""The router's rules: `Core.handle(event, now)` returns the actions that follow.

Nothing here knows of sockets, disks, threads or the clock, so every history of losses, duplicates, reorderings and
restarts can be played in a test, and a simulator runs this very code. The invariants that it keeps (I1 …) are listed in
docs/architecture.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from diffusion_router.core import membership, tasks
from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import (
    Action,
    CancelRequested,
    CancelTask,
    Event,
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
    Stage,
    StageDone,
    StageFailed,
    Tick,
)
from diffusion_router.core.outputs import Outputs
from diffusion_router.core.scheduler import Scheduler
from diffusion_router.core.state import Job, Output, Peer, Task

_LATER_FIRST: Final = sorted(Stage, reverse=True)
# Entries beyond twice the number of jobs that a queue of times may have.
_SWEEP: Final = 1024


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
        self.outputs = Outputs(self.jobs, self.peers, self.emit, known_at=self.settle_until + policy.grace)
        self.scheduler = Scheduler(self.jobs, self.peers)
        self._actions: list[Action] = []
        # Times at which a lease may end, a deadline passes, a job that was held back is ready.
        self._leases: list[tuple[float, str]] = []
        self._deadlines: list[tuple[float, str]] = []
        self._delayed: list[tuple[float, str]] = []
        self._order = count(1)
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
        now = max(self.now, now)
        self._excuse_stall(now)
        self.now = now
        self._actions = []
        self._handlers[type(event)](event)
        self._pass_time()
        self._schedule()
        return self._actions

    def wakeup(self) -> float | None:
        """When the next Tick is due, if nothing else happens first."""
        times = [queue[0][0] for queue in (self._leases, self._deadlines, self._delayed) if queue]
        change = self.outputs.next_change()
        return min(times if change is None else [*times, change], default=None)

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

    # ------------------------------------------------------------ jobs

    def _submitted(self, event: JobSubmitted) -> None:
        if event.job_id in self.jobs:
            return
        job = Job(
            id=event.job_id,
            seq=next(self._order),
            deadline=event.deadline,
            shape=event.shape,
            kills=event.kills,
            created=self.now,
            ready_since=self.now,
            not_before=self.settle_until if event.restored else 0.0,
        )
        self.jobs[job.id] = job
        self._push(self._deadlines, job.deadline, job)
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
            self.outputs.discard(output)

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
                self.outputs.discard(output)
        self.emit(JobEnded(job.id, status, kind, message, result))

    def abandon(self, job: Job) -> None:
        task, job.task = job.task, None
        if task is not None:
            self.cancel(task)

    def cancel(self, task: Task) -> None:
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
            self._push(self._delayed, job.not_before, job)
        else:
            self.scheduler.push(job)
        holder = self.peers.get(job.input.incarnation) if job.input is not None else None
        if holder is not None:
            tasks.keep_reserve(self, holder)

    def start_over(self, job: Job) -> None:
        """Everything can be computed anew from the job itself."""
        job.input = None
        for output in list(job.outputs.values()):
            self.outputs.discard(output)
        job.stage, job.step, job.steps, job.pool_full = Stage.ENCODE, 0, 0, 0
        self.enqueue(job)

    def advance(self, job: Job, output: Output, result: object | None) -> None:
        """The job has this output: its next stage may start, or it is complete."""
        for other in list(job.outputs.values()):
            if other is not output:
                self.outputs.discard(other)
        if output.stage is Stage.DECODE:
            self.end(job, JobStatus.COMPLETED, result=result)
            return
        job.stage, job.input, job.pool_full = Stage(output.stage + 1), output, 0
        self.enqueue(job)
        self.emit(JobChanged(job.id))

    def _push(self, queue: list[tuple[float, str]], at: float, job: Job) -> None:
        """Entries of jobs that are gone are swept out when they could be the most."""
        if len(queue) > 2 * len(self.jobs) + _SWEEP:
            kept = {entry for entry in queue if entry[1] in self.jobs}
            queue[:] = sorted(kept)
        heapq.heappush(queue, (at, job.id))

    # ------------------------------------------------------------ peers

    def _registered(self, event: PeerRegistered) -> None:
        membership.register(self, event)

    def _disconnected(self, event: PeerDisconnected) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None and peer.connected:
            peer.connected = False
            self.changed(peer)

    def _heartbeat(self, event: PeerHeartbeat) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None and event.draining and not peer.draining:
            peer.draining = True
            self.changed(peer)

    def changed(self, peer: Peer) -> None:
        """The list of peers, or the state of this one, is another."""
        self.revision += 1
        self.scheduler.refresh(peer)

    def watch_lease(self, peer: Peer) -> None:
        heapq.heappush(self._leases, (peer.lease_until, peer.incarnation))

    def _drained(self, event: PeerDrained) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None:
            for task in peer.tasks.values():
                task.started = False  # handed back: its job is not to blame
            membership.lose(self, peer, "drained")

    def hear(self, incarnation: str) -> Peer | None:
        """Renews the lease; None for a peer that is fenced or unknown."""
        peer = self.peers.get(incarnation)
        if peer is not None:
            peer.heard_at = self.now
            peer.lease_until = self.now + self.policy.lease
        return peer

    # ------------------------------------------------------------ tasks

    def own(self, peer: Peer, task: Task) -> None:
        peer.tasks[task.id] = task
        self.scheduler.refresh(peer)

    def disown(self, peer: Peer, task_id: str) -> Task | None:
        """Gives the credit back."""
        task = peer.tasks.pop(task_id, None)
        if task is not None:
            self.scheduler.refresh(peer)
        return task

    def _input_received(self, event: InputReceived) -> None:
        peer = self.hear(event.incarnation)
        task = peer.tasks.get(event.task_id) if peer else None
        if task is not None:
            task.received = True

    def _progressed(self, event: Progressed) -> None:
        peer = self.hear(event.incarnation)
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
        peer = self.hear(event.incarnation)
        if peer is not None:
            tasks.finish(self, peer, event.result)

    def _failed(self, event: StageFailed) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None:
            tasks.fail(self, peer, event.task_id, event.kind, event.message)

    # ------------------------------------------------------------ time and assignment

    def _ticked(self, event: Tick) -> None:
        """Time alone: `handle` looks at it after every event."""

    def _excuse_stall(self, now: float) -> None:
        """A router that was stopped itself has heard nobody meanwhile, and fences nobody for that."""
        due = self.wakeup()
        late = now - max(self.now, now if due is None else due)
        beat = self.policy.lease / 3
        if late > beat:
            for peer in self.peers.values():
                peer.lease_until = max(peer.lease_until + late, now + beat)

    def _pass_time(self) -> None:
        while self._leases and self._leases[0][0] <= self.now:
            peer = self.peers.get(heapq.heappop(self._leases)[1])
            if peer is None:
                continue
            if peer.lease_until <= self.now:
                membership.lose(self, peer, "lease expired")
            else:
                self.watch_lease(peer)
        while self._deadlines and self._deadlines[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self._deadlines)[1])
            if job is not None:
                text = f"not finished by its deadline ({job.stage.name})"
                self.end(job, JobStatus.FAILED, FailureKind.DEADLINE, text)
        self.outputs.pass_time(self.now)
        while self._delayed and self._delayed[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self._delayed)[1])
            if job is not None and job.task is None and not job.status.ended:
                self.scheduler.push(job)

    def _schedule(self) -> None:
        for stage in _LATER_FIRST:
            for job in self.scheduler.assign(stage, self.now, self._start):
                self.start_over(job)
        for task in self.scheduler.revoke():
            self.emit(CancelTask(task.incarnation, task.id, only_if_waiting=True))

    def _start(self, job: Job, peer: Peer) -> None:
        tasks.start(self, job, peer)
