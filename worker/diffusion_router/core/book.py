"""The book: all that the core knows at one moment, and the few changes that keep its counts and indexes right.

Everything else in the core decides; whatever it decides about who has which task, which output or which state is
entered here. The indexes are the scheduler's (who waits, who could take it) and the counts below.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from typing import Final, Generic

from diffusion_router.core.actions import Action, CancelTask, ParkTask
from diffusion_router.core.batches import Batches
from diffusion_router.core.capacity import Capacity
from diffusion_router.core.estimates import Begun, Estimates
from diffusion_router.core.events import ParkReason, R, Stage, StageResult
from diffusion_router.core.lifecycle import JobState, Move, after
from diffusion_router.core.peer import Peer, Silent
from diffusion_router.core.policy import Policy
from diffusion_router.core.reuse import Reuse
from diffusion_router.core.saved import Saved
from diffusion_router.core.scheduler import Scheduler
from diffusion_router.core.shares import Shares
from diffusion_router.core.state import Encoding, Job, Output, Task
from diffusion_router.core.tallies import Tallies

# Entries beyond twice the number of jobs that a queue of times may have.
_SWEEP: Final = 1024


class Book(Generic[R]):
    """`epoch` is unique to this life of the router and part of every task id."""

    def __init__(self, policy: Policy, *, epoch: str, now: float) -> None:
        self.policy = policy
        self.epoch = epoch
        self.now = now
        self.settle_until = now + policy.settle
        self.jobs: dict[str, Job[R]] = {}
        self.peers: dict[str, Peer[R]] = {}
        self.fenced: dict[str, float] = {}
        self.silent: dict[str, Silent] = {}
        """By pod name, what a peer ran that was lost because it was silent."""
        self.revision = 0
        """Rises with every change of the list of peers."""
        self.counts: Counter[JobState] = Counter()
        """Jobs by state."""
        self.unfinished: Counter[tuple[Stage, str]] = Counter()
        """Jobs that have not ended, by stage and shape."""
        self.estimates = Estimates()
        self.batches = Batches()
        self.capacity: Capacity[R] = Capacity()
        self.running: dict[tuple[Stage, str], Begun] = {}
        """Tasks that compute."""
        self.shares = Shares()
        self.tallies = Tallies()
        self.reuse = Reuse()
        self.saved = Saved()
        self.scheduler: Scheduler[R] = Scheduler(
            self.jobs,
            self.peers,
            policy.scheduling.ordering(self.estimates),
            self.estimates,
            self.batches,
            compared=policy.compared,
        )
        self.generations = self.scheduler.generations
        self.actions: list[Action[R]] = []
        # Times at which a lease may end, a deadline passes, a job that was held back is ready.
        self.leases: list[tuple[float, str]] = []
        self.deadlines: list[tuple[float, str]] = []
        self.delayed: list[tuple[float, str]] = []
        # Tasks that were told to stop: when their peer is stalled, and where they are.
        self.stopping: list[tuple[float, str, str]] = []
        # Readers that go by themselves: when, order, what they read, who they are.
        self.passing: list[tuple[float, int, Output[R], str]] = []
        # Tasks of an earlier life: by the task whose output they read; those that do not say, by job.
        self.adopted: dict[str, list[Task[R]]] = {}
        # By the same, of those whose peer is lost: until when they may read.
        self.lost_readers: dict[str, float] = {}
        self.encodings: dict[str, Encoding[R]] = {}
        """By conditioning, as long as somebody encodes it or keeps what was made."""
        self.leaderless: list[str] = []
        """Conditionings whose leader went without an output, while others may wait for it."""
        self.leaving: dict[str, Peer[R]] = {}
        """Peers that are told to leave, and still have something."""
        self.to_relieve: dict[str, None] = {}
        """Those of them that have something new, or for whom somebody has come."""
        self.letting_go: list[tuple[float, str]] = []
        """When each of them has kept what no job needs for long enough."""
        self.order = count(1)

    def emit(self, action: Action[R]) -> None:
        self.actions.append(action)

    def gave(self, task_id: str) -> bool:
        """Whether the task is of this life of the router."""
        return task_id.rpartition(".")[2] == self.epoch

    # ------------------------------------------------------------ jobs

    def add(self, job: Job[R]) -> None:
        self.jobs[job.id] = job
        self.counts[job.state] += 1
        self.unfinished[job.stage, job.shape] += 1
        self.batches.shaped(job.shape, job.batch)
        self.at(self.deadlines, job.deadline, job)

    def remove(self, job: Job[R]) -> None:
        """One that has ended."""
        del self.jobs[job.id]
        self.counts[job.state] -= 1

    def move(self, job: Job[R], move: Move, *, task: Task[R] | None = None, source: Output[R] | None = None) -> None:
        """Task and input stay what they are where the new state has them and no others are given."""
        state = after(job.state, move)
        self.counts[job.state] -= 1
        self.counts[state] += 1
        if job.stage is Stage.ENCODE and (state.stage is not Stage.ENCODE or (job.follows and state.has_task)):
            # A task of an earlier life of the router may be found that encodes for one who follows.
            self.leave_encoding(job)
        if state.stage is not job.stage:
            self._count_unfinished(job, state.stage)
            job.stage = state.stage or job.stage
            job.pool_full = 0
            if state.stage is Stage.ENCODE:
                job.step = job.steps = 0
        job.state = state
        job.task = (task or job.task) if state.has_task else None
        job.input = (source or job.input) if state.has_input else None

    def leave_encoding(self, job: Job[R]) -> None:
        job.follows = False
        encoding = self.encodings.get(job.conditioning)
        if encoding is None:
            return
        encoding.followers.pop(job.id, None)
        if encoding.leader is job:
            encoding.leader = None
            self.leaderless.append(job.conditioning)
        self.forget_if_empty(job.conditioning, encoding)

    def forget_if_empty(self, conditioning: str, encoding: Encoding[R]) -> None:
        """Nobody encodes it, waits for it or keeps it."""
        if not (encoding.leader or encoding.followers or encoding.output):
            del self.encodings[conditioning]

    def _count_unfinished(self, job: Job[R], stage: Stage | None) -> None:
        key = (job.stage, job.shape)
        self.unfinished[key] -= 1
        if not self.unfinished[key]:
            del self.unfinished[key]
        if stage is not None:
            self.unfinished[stage, job.shape] += 1

    def at(self, queue: list[tuple[float, str]], when: float, job: Job[R]) -> None:
        """Entries of jobs that are gone are swept out when they could be the most."""
        if len(queue) > 2 * len(self.jobs) + _SWEEP:
            queue[:] = {entry for entry in queue if entry[1] in self.jobs}
            heapq.heapify(queue)
        heapq.heappush(queue, (when, job.id))

    # ------------------------------------------------------------ peers

    def changed(self, peer: Peer[R]) -> None:
        """The list of peers, or the state of this one, is another."""
        self.revision += 1
        self.capacity.count(peer, takes_tasks=peer.incarnation in self.peers and peer.takes_tasks)
        if peer.draining and peer.incarnation in self.peers:
            self.leaving[peer.incarnation] = peer
        else:
            self.leaving.pop(peer.incarnation, None)
        self.scheduler.seat(peer)

    def together(self, shape: str) -> tuple[int, float]:
        """As in Together, on peers of the most usual kind."""
        if (usual := self.capacity.gathering()) is None:
            return 1, 1.0
        generation, capacity = usual
        batch = self.batches.of(shape)
        number = self.batches.most(generation, batch, capacity)
        return number, self.batches.slowdown(generation, batch, number)

    def hear(self, incarnation: str) -> Peer[R] | None:
        """Renews the lease; None for a peer that is fenced or unknown."""
        peer = self.peers.get(incarnation)
        if peer is not None:
            peer.heard_at = self.now
            peer.lease_until = self.now + self.policy.lease
        return peer

    def watch_lease(self, peer: Peer[R]) -> None:
        heapq.heappush(self.leases, (peer.lease_until, peer.incarnation))

    def set_room(self, peer: Peer[R], slots: int) -> None:
        peer.room, peer.full_at = slots, self.now
        self.scheduler.changed(peer)

    # ------------------------------------------------------------ tasks

    def own(self, peer: Peer[R], task: Task[R]) -> None:
        peer.tasks[task.id] = task
        peer.slots_used += task.slots
        peer.bytes_used += task.nbytes
        self.scheduler.changed(peer)

    def disown(self, peer: Peer[R], task_id: str) -> Task[R] | None:
        """Gives the credit back."""
        task = peer.tasks.pop(task_id, None)
        if task is not None:
            peer.slots_used -= task.slots
            peer.bytes_used -= task.nbytes
            self.stop(task)
            peer.parking -= task.parking
            self.scheduler.changed(peer)
            if task_id in peer.stalled:
                peer.stalled.discard(task_id)
                self.changed(peer)
        return task

    def reserve(self, peer: Peer[R], task: Task[R], slots: int) -> None:
        """So many more for a task that it owns; fewer, if negative."""
        task.slots += slots
        peer.slots_used += slots
        self.scheduler.changed(peer)

    def own_copy(self, peer: Peer[R], task: Task[R]) -> None:
        peer.copies[task.id] = task
        peer.slots_used += task.slots
        peer.bytes_used += task.nbytes
        self.scheduler.changed(peer)

    def disown_copy(self, peer: Peer[R], task_id: str) -> Task[R] | None:
        task = peer.copies.pop(task_id, None)
        if task is not None:
            peer.slots_used -= task.slots
            peer.bytes_used -= task.nbytes
            if task.copies is not None:
                task.copies.copied_by = ""
            self.scheduler.changed(peer)
        return task

    def begin(self, peer: Peer[R], task: Task[R]) -> None:
        """It computes."""
        if not task.started:
            task.started = True
            self.scheduler.behind.changed(peer)
            job = self.jobs.get(task.job_id)
            if job is not None:
                if peer.gathers and task.stage is Stage.DENOISE:
                    self._pass_alone(peer)
                    peer.computing[task.batch] += 1
                    task.alone_at = peer.alone_seconds
                if task.at_once:
                    self.estimates.learn_passing(task.stage, self.now - task.sent_at)
                task.begun = (self.now, job.shape)
                begun = self.running.setdefault((task.stage, job.shape), Begun())
                begun.count += 1
                begun.since += self.now

    def stop(self, task: Task[R]) -> None:
        """It computes no more."""
        self.scheduler.giving_way.stops(task.id)
        if task.begun is not None:
            at, shape = task.begun
            peer = self.peers.get(task.incarnation)
            if peer is not None and peer.gathers and task.stage is Stage.DENOISE:
                task.alone_share = self.share_alone(peer, task)
                peer.computing[task.batch] -= 1
                if not peer.computing[task.batch]:
                    del peer.computing[task.batch]
            task.begun = None
            begun = self.running[task.stage, shape]
            begun.count -= 1
            begun.since -= at
            if not begun.count:
                del self.running[task.stage, shape]

    def share_alone(self, peer: Peer[R], task: Task[R]) -> float:
        """Of the time that it has computed by now, how much it would have needed alone."""
        if not peer.gathers or task.begun is None:
            return 1.0
        self._pass_alone(peer)
        passed = self.now - task.begun[0]
        return (peer.alone_seconds - task.alone_at) / passed if passed > 0 else 1.0

    def _pass_alone(self, peer: Peer[R]) -> None:
        # Batches that do not share take turns.
        slowdown = sum(
            self.batches.slowdown(peer.generation, batch, number) for batch, number in peer.computing.items()
        )
        if slowdown:
            peer.alone_seconds += (self.now - peer.alone_until) / slowdown
        peer.alone_until = self.now

    def cancel(self, task: Task[R]) -> None:
        """Told to stop; its credit comes back with its report."""
        if not task.abandoned:
            self._watch_stop(task)
        task.abandoned = True
        self._relist(task)
        self.emit(CancelTask(task.incarnation, task.id))

    def _watch_stop(self, task: Task[R]) -> None:
        if len(self.stopping) > 2 * len(self.jobs) + _SWEEP:
            self.stopping[:] = [entry for entry in self.stopping if self._owns(*entry[1:])]
            heapq.heapify(self.stopping)
        heapq.heappush(self.stopping, (self.now + self.policy.stall, task.incarnation, task.id))

    def _owns(self, incarnation: str, task_id: str) -> bool:
        peer = self.peers.get(incarnation)
        return peer is not None and task_id in peer.tasks

    def park(self, task: Task[R], reason: ParkReason) -> None:
        """At its next step, if it has one left."""
        self._set_parking(task, True)
        self.scheduler.giving_way.stops(task.id)
        self.emit(ParkTask(task.incarnation, task.id, reason))

    def not_parking(self, task: Task[R]) -> None:
        """It goes on as if it had not been told."""
        self._set_parking(task, False)

    def _set_parking(self, task: Task[R], parking: bool) -> None:
        peer, job = self.peers[task.incarnation], self.jobs.get(task.job_id)
        peer.parking += parking - task.parking
        task.parking = parking
        task.parking_since = (self.now, job.step if job is not None else 0)
        self.scheduler.changed(peer)

    def ask_back(self, task: Task[R]) -> None:
        """Unless it has started meanwhile."""
        task.revoked = True
        self._relist(task)
        self.emit(CancelTask(task.incarnation, task.id, only_if_waiting=True))

    def not_asked_back(self, task: Task[R]) -> None:
        task.revoked = False
        self._relist(task)

    def _relist(self, task: Task[R]) -> None:
        peer = self.peers.get(task.incarnation)
        if peer is not None:
            self.scheduler.behind.changed(peer)

    # ------------------------------------------------------------ outputs

    def keep(self, peer: Peer[R], result: StageResult[R]) -> Output[R]:
        task_id, job_id, stage, nbytes = result.task_id, result.job_id, result.stage, result.nbytes
        output = Output(
            task_id,
            job_id,
            stage,
            peer.incarnation,
            peer.generation,
            result.report,
            parked=result.parked,
            steps=result.steps,
            nbytes=nbytes,
            made_at=self.now,
        )
        peer.outputs[task_id] = output
        peer.slots_used += output.slots
        peer.bytes_used += nbytes
        peer.largest[stage] = max(nbytes, peer.largest.get(stage, 0))
        job = self.jobs.get(job_id)
        if job is not None:
            output.conditioning = job.conditioning
            output.wanted_by.add(job_id)
            job.outputs[task_id] = output
        self.scheduler.changed(peer)
        return output

    def cache(self, peer: Peer[R], output: Output[R]) -> None:
        """Nobody needs it, and it stays until its room is needed."""
        peer.cached[output.task_id] = output
        peer.cached_bytes += output.nbytes
        for job_id in output.sharers:
            job = self.jobs.get(job_id)
            if job is not None:
                job.outputs.pop(output.task_id, None)
        output.sharers.clear()
        self.scheduler.changed(peer)

    def uncache(self, output: Output[R]) -> None:
        """Somebody needs it, or it goes."""
        peer = self.peers.get(output.incarnation)
        if peer is not None and peer.cached.pop(output.task_id, None) is not None:
            peer.cached_bytes -= output.nbytes
            self.scheduler.changed(peer)

    def drop(self, output: Output[R]) -> Peer[R] | None:
        """The peer that kept it until now, if any does."""
        self.uncache(output)
        for job_id in output.listed_by:
            job = self.jobs.get(job_id)
            if job is not None:
                job.outputs.pop(output.task_id, None)
        encoding = self.encodings.get(output.conditioning)
        if encoding is not None and encoding.output is output:
            encoding.output = None
            self.forget_if_empty(output.conditioning, encoding)
        peer = self.peers.get(output.incarnation)
        if peer is None or peer.outputs.pop(output.task_id, None) is None:
            return None
        peer.slots_used -= output.slots
        peer.bytes_used -= output.nbytes
        self.scheduler.changed(peer)
        return peer
