"""What must hold whatever the load, told from events and actions alone and checked as they pass.

Kept apart from the core's own book, so that the core can't be wrong in both; of that is only read what excuses a wait.
Each check costs what the event changes, so that they are always on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from diffusion_router.core import (
    Action,
    CancelRequested,
    CancelTask,
    Core,
    Event,
    Execute,
    FailureKind,
    JobChanged,
    JobEnded,
    JobKilled,
    JobStatus,
    JobSubmitted,
    ParkTask,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerLost,
    PeerRegistered,
    Progressed,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    Tick,
    Welcome,
)
from dpipe.simulate.errors import InvariantError
from dpipe.simulate.held import Kept
from dpipe.simulate.order import Open, Order
from dpipe.simulate.reads import Reads
from dpipe.simulate.seats import Given, Seat

# Lost peers remembered.
_MAX_LOST: Final = 4096
_MENDABLE: Final = frozenset({FailureKind.HANDED_BACK, FailureKind.CANCELLED, FailureKind.POOL_FULL})


class Checks:
    """passes: starts for which the oldest job that is late may be passed over, in the order that the policy keeps."""

    def __init__(self, core: Core[Kept], *, passes: int) -> None:
        self._jobs: dict[str, Open] = {}
        self._seats: dict[str, Seat] = {}
        self._seq = 0
        self._order = Order(core, self._jobs, passes, self._violated)
        self._reads = Reads()
        # Jobs that peers had which were lost, and may be alive.
        self._lost: dict[str, list[str]] = {}
        # The peer of which a task gave way just now.
        self._given_up = ""
        # Peers whose counts are others.
        self._touched: set[str] = set()
        self.events = 0
        self._core = core
        self._heard: dict[type, Callable[[Any], None]] = {
            JobSubmitted: self._submitted,
            CancelRequested: self._cancel_asked,
            PeerRegistered: self._registers,
            PeerDisconnected: self._touch,
            PeerHeartbeat: self._touch,
            PeerDrained: self._touch,
            Progressed: self._progressed,
            StageDone: self._done,
            StageFailed: self._failed,
        }
        self._said: dict[type, Callable[[Any], None]] = {
            Execute: self._executes,
            CancelTask: self._cancels,
            ParkTask: self._parks,
            ReleaseSlot: self._releases,
            Welcome: self._welcomes,
            PeerLost: self._loses,
            JobChanged: self._changes,
            JobKilled: self._kills,
            JobEnded: self._ends,
        }

    # ------------------------------------------------------------ what happens around the core

    def router_restarts(self, core: Core[Kept]) -> None:
        """A new life: it has to be told of peers and jobs, and whoever reads may be unknown to it for a while."""
        self._core = core
        self._seats.clear()
        self._order.begin_life(core)
        policy = core.policy
        self._reads.router_restarts(core.now + policy.settle + policy.grace)
        for job in self._jobs.values():
            job.task, job.waits_for = "", None

    def died(self, incarnation: str) -> None:
        """A worker's process ended. What it was given may have been what killed it, as far as can be known."""
        seat = self._seats.get(incarnation)
        given = self._lost.pop(incarnation, ()) if seat is None else [each.job_id for each in seat.given.values()]
        for job_id in given:
            if (job := self._jobs.get(job_id)) is not None:
                job.deaths += 1

    # ------------------------------------------------------------ an event

    def before(self, event: Event[Kept]) -> None:
        self.events += 1
        heard = self._heard.get(type(event))
        if heard is not None:
            heard(event)

    def after(self, event: Event[Kept], actions: Sequence[Action[Kept]]) -> None:
        self._given_up = ""
        for action in actions:
            said = self._said.get(type(action))
            if said is not None:
                said(action)
        if isinstance(event, PeerRegistered):
            self._adopt(event)
        if not (self._touched or self._order.moved or type(event) is Tick):
            return
        self._order.moved = False
        for incarnation in self._touched:
            self._count(incarnation)
        self._touched.clear()
        self._order.find_idle()

    def _violated(self, rule: str, text: str) -> NoReturn:
        raise InvariantError(f"{rule}, at {self._core.now:.3f} s, event {self.events}: {text}")

    # ------------------------------------------------------------ jobs

    def _submitted(self, event: JobSubmitted) -> None:
        job = self._jobs.get(event.job_id)
        if job is None:
            since = self._core.now if event.since is None else event.since
            job = self._jobs[event.job_id] = Open(self._seq, since + event.target, event.deadline)
            self._seq += 1
        self._order.waits(event.job_id, job, Stage.ENCODE)

    def _cancel_asked(self, event: CancelRequested) -> None:
        if (job := self._jobs.get(event.job_id)) is not None:
            job.cancelled = True

    def _changes(self, action: JobChanged) -> None:
        """Another's output may have brought it to its next stage."""
        job = self._jobs.get(action.job_id)
        if job is not None and not job.task:
            known = self._core.jobs.get(action.job_id)
            if known is not None and known.stage is not job.waits_for:
                self._order.waits(action.job_id, job, known.stage)

    def _kills(self, action: JobKilled) -> None:
        job = self._jobs[action.job_id]
        if action.kills != job.kills + 1:
            self._violated("I11", f"{action.job_id} is blamed for {action.kills} deaths after {job.kills}")
        if action.kills > job.deaths:
            self._violated("I11", f"{action.job_id} is blamed for {action.kills} deaths, {job.deaths} have been")
        job.kills = action.kills

    def _ends(self, action: JobEnded[Kept]) -> None:
        job = self._jobs.pop(action.job_id, None)
        if job is None:
            self._violated("I1", f"{action.job_id} ends ({action.status}), and had ended before")
        self._order.starts(action.job_id, job)
        excused = {
            FailureKind.POISON: job.kills >= self._core.policy.max_kills,
            FailureKind.DEADLINE: self._core.now >= job.deadline,
        }
        if action.status is JobStatus.COMPLETED:
            if not job.decoded:
                self._violated("I1", f"{action.job_id} is completed before it is decoded")
        elif action.status is JobStatus.CANCELLED:
            if not job.cancelled:
                self._violated("I1", f"{action.job_id} is cancelled, and nobody asked for that")
        elif not excused.get(action.kind, job.failures > 0):
            self._violated("I6", f"{action.job_id} fails with {action.kind.name}: {action.message}")

    # ------------------------------------------------------------ tasks

    def _executes(self, action: Execute[Kept]) -> None:
        job, seat = self._jobs.get(action.job_id), self._seats.get(action.incarnation)
        if job is None:
            self._violated("I1", f"{action.task_id} is sent, and its job has ended")
        if seat is None:
            self._violated("I4", f"{action.task_id} is sent to {action.incarnation}, which is not there")
        if action.input is not None:
            self._reads.reads(action.task_id, action.input.task_id)
        self._touched.add(action.incarnation)
        if action.copy:
            seat.copies[action.task_id] = Given(action.job_id, 1)
            seat.used += 1
            return
        if job.task:
            self._violated("I1", f"{action.task_id} is sent while {job.task} is under way")
        if job.kills >= self._core.policy.max_kills:
            self._violated("I11", f"{action.task_id} is sent, and its job has killed {job.kills} workers")
        self._order.starts(action.job_id, job)
        job.task = action.task_id
        pulls = action.input is not None and action.input.incarnation != action.incarnation
        # Who need not pull takes fewer slots, and may start where the oldest can't; and a place that was given up for
        # somebody was nobody else's to have.
        passes = (pulls or action.stage is Stage.ENCODE) and self._given_up != action.incarnation
        self._given_up = ""
        peer = self._core.peers[action.incarnation]
        joins = action.stage is Stage.DENOISE and peer.gathers and len(peer.denoises) > 1
        self._order.started(action.stage, job, passes=passes, joins=joins)
        given = Given(action.job_id, int(pulls) + int(action.stage is not Stage.DECODE))
        seat.given[action.task_id] = given
        seat.used += given.slots
        if len(seat.given) - len(seat.parking) > seat.capacity + self._core.policy.prefetch:
            self._violated("I4", f"{action.incarnation} is sent {len(seat.given)} tasks and has {seat.capacity} places")

    def _progressed(self, event: Progressed) -> None:
        if event.step == 0:
            self._reads.begins(event.task_id)

    def _cancels(self, action: CancelTask) -> None:
        if action.only_if_waiting:
            return
        seat = self._seats.get(action.incarnation)
        given = seat.given.get(action.task_id) if seat is not None else None
        job = self._jobs.get(given.job_id) if given is not None else None
        if given is not None and job is not None and job.task == action.task_id:
            self._order.waits(given.job_id, job, Stage.ENCODE)

    def _parks(self, action: ParkTask) -> None:
        seat = self._seats.get(action.incarnation)
        if seat is None or action.task_id not in seat.given:
            self._violated("I12", f"{action.task_id} is to be parked, and is not there")
        seat.parking.add(action.task_id)
        self._given_up = action.incarnation
        self._touched.add(action.incarnation)

    def _close(self, incarnation: str, task_id: str) -> Open | None:
        """The task is over. Its job, if that has no other."""
        self._touched.add(incarnation)
        self._reads.ends(task_id)
        seat = self._seats.get(incarnation)
        given = seat.given.pop(task_id, None) or seat.copies.pop(task_id, None) if seat is not None else None
        if seat is None or given is None:
            return None
        seat.used -= given.slots
        seat.parking.discard(task_id)
        job = self._jobs.get(given.job_id)
        return job if job is not None and job.task == task_id else None

    def _done(self, event: StageDone[Kept]) -> None:
        seat, result = self._seats.get(event.incarnation), event.result
        if seat is None:
            return
        given = result.task_id in seat.given or result.task_id in seat.copies
        job = self._close(event.incarnation, result.task_id)
        if given:
            slots = int(result.stage is not Stage.DECODE)
            seat.outputs[result.task_id] = slots
            seat.used += slots
        if job is not None:
            job.decoded |= result.stage is Stage.DECODE
            if result.stage is not Stage.DECODE:
                self._order.waits(result.job_id, job, result.stage if result.parked else Stage(result.stage + 1))

    def _failed(self, event: StageFailed) -> None:
        seat = self._seats.get(event.incarnation)
        given = seat.given.get(event.task_id) if seat is not None else None
        job = self._close(event.incarnation, event.task_id)
        if job is not None and given is not None:
            job.failures += event.kind not in _MENDABLE
            known = self._core.jobs.get(given.job_id)
            self._order.waits(given.job_id, job, Stage.ENCODE if known is None else known.stage)

    def _releases(self, action: ReleaseSlot) -> None:
        peer = self._core.peers.get(action.incarnation)
        leaves = peer is not None and peer.draining
        reader = self._reads.released(action.task_id, self._core.now, leaves=leaves)
        if reader is not None:
            self._violated("I3", f"{action.task_id} is released while {reader} reads it")
        seat = self._seats.get(action.incarnation)
        if seat is not None:
            seat.used -= seat.outputs.pop(action.task_id, 0)
            self._touched.add(action.incarnation)

    # ------------------------------------------------------------ peers

    def _touch(self, event: PeerDisconnected | PeerHeartbeat | PeerDrained) -> None:
        self._touched.add(event.incarnation)

    def _registers(self, event: PeerRegistered[Kept]) -> None:
        for result in event.outputs:
            if result.stage is Stage.DECODE and (job := self._jobs.get(result.job_id)) is not None:
                job.decoded = True
        seat = self._seats.get(event.incarnation)
        if seat is None:
            return
        # What was asked of it may not have arrived.
        seat.parking.clear()
        done = {result.task_id: result for result in event.outputs}
        held = {task.task_id for task in event.tasks}
        for task_id in [task_id for task_id in (*seat.given, *seat.copies) if task_id not in held]:
            if task_id in done:
                self._done(StageDone(event.incarnation, done[task_id]))
                continue
            job_id = (seat.given.get(task_id) or seat.copies[task_id]).job_id
            if (job := self._close(event.incarnation, task_id)) is not None:
                self._order.waits(job_id, job, self._core.jobs[job_id].stage)
        for task in event.tasks:
            if task.started:
                self._progressed(Progressed(event.incarnation, task.task_id, 0, 0))
        for task_id in [task_id for task_id in seat.outputs if task_id not in done]:
            seat.used -= seat.outputs.pop(task_id)

    def _welcomes(self, action: Welcome) -> None:
        peer = self._core.peers[action.incarnation]
        if action.incarnation not in self._seats:
            self._seats[action.incarnation] = Seat(peer.stages, peer.capacity, peer.slots)
        self._touched.add(action.incarnation)

    def _adopt(self, event: PeerRegistered[Kept]) -> None:
        """What of an earlier life of the router is taken over."""
        peer, seat = self._core.peers.get(event.incarnation), self._seats.get(event.incarnation)
        if peer is None or seat is None:
            return
        for held in event.tasks:
            task = peer.tasks.get(held.task_id)
            if task is not None and held.task_id not in seat.given:
                seat.given[held.task_id] = Given(held.job_id, task.slots)
                seat.used += task.slots
                if held.input_id:
                    self._reads.reads(held.task_id, held.input_id)
                    if held.started:
                        self._reads.begins(held.task_id)
                job, known = self._jobs.get(held.job_id), self._core.jobs.get(held.job_id)
                if job is not None and known is not None and known.task is task:
                    self._order.starts(held.job_id, job)
                    job.task = held.task_id
        for result in event.outputs:
            if result.task_id in peer.outputs and result.task_id not in seat.outputs:
                slots = int(result.stage is not Stage.DECODE)
                seat.outputs[result.task_id] = slots
                seat.used += slots
                job, known = self._jobs.get(result.job_id), self._core.jobs.get(result.job_id)
                if job is not None and known is not None and not (known.state.has_task or known.status.ended):
                    self._order.waits(result.job_id, job, known.stage)

    def _loses(self, action: PeerLost) -> None:
        seat = self._seats.pop(action.incarnation, None)
        if seat is None:
            return
        for stage in seat.idle:
            self._order.idle[stage] -= 1
        self._lost[action.incarnation] = [given.job_id for given in seat.given.values()]
        while len(self._lost) > _MAX_LOST:
            del self._lost[next(iter(self._lost))]
        for task_id in seat.outputs:
            self._reads.is_gone(task_id)
        until = self._core.now + self._core.policy.grace
        for task_id, given in (*seat.given.items(), *seat.copies.items()):
            self._reads.is_lost(task_id, until)
            job, known = self._jobs.get(given.job_id), self._core.jobs.get(given.job_id)
            if job is not None and job.task == task_id:
                self._order.waits(given.job_id, job, Stage.ENCODE if known is None else known.stage)

    def _count(self, incarnation: str) -> None:
        """I4: what the core counts is what was given and has not come back. And whether it is idle."""
        seat, peer = self._seats.get(incarnation), self._core.peers.get(incarnation)
        if seat is None or peer is None:
            return
        if len(peer.tasks) != len(seat.given):
            text = f"{incarnation} holds {len(seat.given)} tasks, and {len(peer.tasks)} of its credits are taken"
            self._violated("I4", text)
        if peer.slots_used != seat.used:
            text = f"{incarnation} has {seat.used} slots taken, and {peer.slots_used} are counted"
            self._violated("I4", text)
        for stage in seat.idle:
            self._order.idle[stage] -= 1
        seat.idle = ()
        # A place beside others may well stay empty, where two at once take longer than one after the other.
        if peer.takes_tasks and len(seat.given) == len(seat.parking):
            seat.idle = tuple(stage for stage in seat.stages if seat.slots - seat.used >= peer.needs[stage])
        for stage in seat.idle:
            self._order.idle[stage] += 1

    def at_rest(self) -> None:
        """All jobs have ended, and everything has had the time to come back."""
        if self._jobs:
            job_id, job = next(iter(self._jobs.items()))
            self._violated("I1", f"{len(self._jobs)} jobs never ended, the first is {job_id}: {job}")
        for incarnation, seat in self._seats.items():
            if seat.given or seat.copies:
                self._violated("I4", f"{incarnation} still has {[*seat.given, *seat.copies]}")
            if seat.outputs:
                self._violated("I3", f"{incarnation} was never told to release {list(seat.outputs)}")
        held = Counter({name: len(peer.tasks) + len(peer.outputs) for name, peer in self._core.peers.items()})
        if +held:
            self._violated("I4", f"the core still counts {+held}")
