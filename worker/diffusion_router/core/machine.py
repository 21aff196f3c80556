"""The router's rules: `Core.handle(event, now)` returns the actions that follow.

Nothing here knows of sockets, disks, threads or the clock, so every history of losses, duplicates, reorderings and
restarts can be played in a test, and a simulator runs this very code. Each module stands on those before it: `book`
(what is known, and the changes that keep its indexes right), `cache`, `outputs`, `sharing`, `leaving`, `jobs`, `tasks`,
`membership`, and this one; `admission` asks it. The invariants that it keeps (I1 …) are listed in docs/architecture.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from diffusion_router.core import cache, copies, jobs, leaving, membership, outputs, sharing, tasks
from diffusion_router.core.actions import Action
from diffusion_router.core.book import Book
from diffusion_router.core.estimates import Prediction
from diffusion_router.core.events import (
    CancelRequested,
    Event,
    FailureKind,
    InputReceived,
    JobRecorded,
    JobSubmitted,
    ParkReason,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerProbed,
    PeerRegistered,
    Progressed,
    R,
    RouterStops,
    SharesSet,
    Stage,
    StageDone,
    StageFailed,
    Tick,
)
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.offers import in_words, needs
from diffusion_router.core.peer import Loss, Peer
from diffusion_router.core.policy import Policy
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Job

_LATER_FIRST: Final = sorted(Stage, reverse=True)


class Core(Book[R]):
    """The book, read by the shells and written by what they tell."""

    def __init__(self, policy: Policy, *, epoch: str, now: float) -> None:
        super().__init__(policy, epoch=epoch, now=now)
        self._handlers: dict[type, Callable[[Any], None]] = {
            JobSubmitted: self._submitted,
            CancelRequested: self._cancel_requested,
            JobRecorded: self._recorded,
            PeerRegistered: self._registered,
            PeerDisconnected: self._disconnected,
            PeerHeartbeat: self._heartbeat,
            PeerProbed: self._probed,
            PeerDrained: self._drained,
            InputReceived: self._input_received,
            Progressed: self._progressed,
            StageDone: self._done,
            StageFailed: self._failed,
            SharesSet: self._shares_set,
            RouterStops: self._stops,
            Tick: self._ticked,
        }
        # The book's own lists, which are therefore only ever changed in place.
        self._timed: tuple[list[Any], ...] = (
            self.leases,
            self.deadlines,
            self.delayed,
            self.stopping,
            self.passing,
            self.letting_go,
        )
        self._gives_way = partial(self.park, reason=ParkReason.GIVES_WAY)
        self._moves = partial(self.park, reason=ParkReason.MOVES)

    def handle(self, event: Event[R], now: float) -> list[Action[R]]:
        now = max(self.now, now)
        self._excuse_stall(now)
        self.now = now
        self.actions = []
        self._handlers[type(event)](event)
        self._pass_time()
        self._pass_the_lead()
        self._schedule()
        if self.to_relieve:
            leaving.pass_on(self)
            self._schedule()
        return self.actions

    def wakeup(self) -> float | None:
        """When the next Tick is due, if nothing else happens first."""
        return min([queue[0][0] for queue in self._timed if queue], default=None)

    def waiting(self) -> int:
        """Accepted jobs that have not ended and of which no task is under way."""
        return sum(jobs for state, jobs in self.counts.items() if not (state.has_task or state.status.ended))

    def may_be_claimed(self, task_id: str, job_id: str, now: float) -> bool:
        """Whether this may be a task of an earlier life with which a worker has yet to register."""
        job = self.jobs.get(job_id)
        waits = job is not None and not (job.status.ended or job.state.has_task)
        return waits and now < self.settle_until and not self.gave(task_id)

    def predict(self, now: float, shape: str = "", count: int = 1) -> Prediction:
        """What `count` jobs of this shape that were accepted now would go through."""
        return self.estimates.predict(
            shape,
            count,
            load=self.unfinished,
            running=self.running,
            capacity=self.capacity.places,
            together=self.together,
            now=max(self.now, now),
        )

    # ------------------------------------------------------------ jobs

    def _submitted(self, event: JobSubmitted) -> None:
        jobs.submit(self, event)

    def _cancel_requested(self, event: CancelRequested) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            jobs.end(self, job, Move.CANCELLED, FailureKind.CANCELLED, "cancelled by the client")

    def _recorded(self, event: JobRecorded) -> None:
        jobs.recorded(self, event.job_id)

    # ------------------------------------------------------------ peers

    def _registered(self, event: PeerRegistered[R]) -> None:
        membership.register(self, event)

    def _disconnected(self, event: PeerDisconnected) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None and peer.connected:
            peer.connected = False
            self.changed(peer)

    def _heartbeat(self, event: PeerHeartbeat) -> None:
        peer = self.hear(event.incarnation)
        if peer is None:
            return
        if event.adapters is not None:
            peer.loaded = event.adapters.loaded | peer.schedulers
        for time in event.forwards:
            self.batches.measured(peer.generation, time)
        if event.forwards:
            # What did not pay may, or the other way round.
            self.scheduler.changed(peer)
        offered = peer.offered if event.adapters is None else event.adapters.offered | peer.schedulers
        if offered != peer.offered or (event.draining and not peer.draining):
            peer.offered = offered
            peer.draining |= event.draining
            self.changed(peer)
        if peer.draining:
            leaving.begin(self, peer)

    def _probed(self, event: PeerProbed) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None:
            self.changed(peer)

    def _drained(self, event: PeerDrained) -> None:
        peer = self.peers.get(event.incarnation)
        if peer is not None:
            for copy in list(peer.copies.values()):
                # It never came to that: nobody is to wait as if it might still read.
                self.disown_copy(peer, copy.id)
                tasks.not_copied(self, copy)
            membership.lose(self, peer, "drained", Loss.LEFT)

    # ------------------------------------------------------------ tasks

    def _input_received(self, event: InputReceived) -> None:
        self.hear(event.incarnation)

    def _progressed(self, event: Progressed) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None:
            tasks.progress(self, peer, event)

    def _done(self, event: StageDone[R]) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None:
            tasks.finish(self, peer, event.result)

    def _failed(self, event: StageFailed) -> None:
        peer = self.hear(event.incarnation)
        if peer is not None:
            tasks.fail(self, peer, event.task_id, event.kind, event.message)

    # ------------------------------------------------------------ generations

    def _shares_set(self, event: SharesSet) -> None:
        for generation in event.percent.keys() - self.shares.percent.keys():
            self.tallies.begin_anew(generation)
        self.shares.set(event.percent)
        cache.clear_generations(self)
        jobs.begin_by_shares(self)

    # ------------------------------------------------------------ time and assignment

    def _stops(self, event: RouterStops) -> None:
        for peer in self.peers.values():
            copies.call_off(self, peer)
            cache.clear(self, peer, Eviction.GONE)
        for peer in self.peers.values():
            outputs.release_what_none_needs(self, peer)

    def _ticked(self, event: Tick) -> None:
        """Time alone: `handle` looks at it after every event."""

    def _excuse_stall(self, now: float) -> None:
        """A router that was stopped itself has heard nobody meanwhile, and fences nobody for that."""
        beat = self.policy.lease / 3
        if now - self.now <= beat:
            return
        due = self.wakeup()
        late = now - max(self.now, now if due is None else due)
        if late > beat:
            for peer in self.peers.values():
                peer.lease_until = max(peer.lease_until + late, now + beat)

    def _pass_time(self) -> None:
        while self.leases and self.leases[0][0] <= self.now:
            peer = self.peers.get(heapq.heappop(self.leases)[1])
            if peer is None:
                continue
            if peer.lease_until <= self.now:
                membership.fall_silent(self, peer)
            else:
                self.watch_lease(peer)
        while self.deadlines and self.deadlines[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self.deadlines)[1])
            if job is not None:
                text = f"not finished by its deadline ({job.stage.name})"
                if missing := self.generations.offers.missing(needs(job)):
                    text += f": no denoiser offers its {in_words(missing)}"
                jobs.end(self, job, Move.FAILED, FailureKind.DEADLINE, text)
        while self.stopping and self.stopping[0][0] <= self.now:
            _, incarnation, task_id = heapq.heappop(self.stopping)
            membership.stall(self, incarnation, task_id)
        outputs.pass_time(self)
        leaving.pass_time(self)
        while self.delayed and self.delayed[0][0] <= self.now:
            job = self.jobs.get(heapq.heappop(self.delayed)[1])
            if job is not None and job.task is None and not (job.status.ended or job.follows):
                self.scheduler.push(job)

    def _pass_the_lead(self) -> None:
        if self.leaderless:
            for job in sharing.next_leaders(self):
                jobs.enqueue(self, job)

    def _schedule(self) -> None:
        while not self.scheduler.settled():
            for stage in _LATER_FIRST:
                for job in self.scheduler.assign(stage, self.now, self._start):
                    jobs.start_over(self, job)
                self._pass_the_lead()
            self.scheduler.make_way(self._gives_way, self._start)
            self.scheduler.spread(self._moves)
        for task in self.scheduler.to_ask_back():
            self.ask_back(task)

    def _start(self, job: Job[R], peer: Peer[R], order: float) -> None:
        tasks.start(self, job, peer, order)
