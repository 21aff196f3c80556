"""A pipeline in virtual time: the router's own core, simulated workers, requests that arrive and faults.

The clock goes from one moment at which something happens to the next. Messages take the worker's latency, in order; a
stream that breaks loses what is on its way. A job's end is written down at once, and outlives the router.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from diffusion_router.core import (
    Action,
    CancelTask,
    Core,
    Event,
    Execute,
    JobEnded,
    JobKilled,
    JobRecorded,
    ParkTask,
    PeerDisconnected,
    Policy,
    RefusalReason,
    Refuse,
    ReleaseSlot,
    Tick,
)
from dpipe.simulate.arrivals import Arrivals, submission
from dpipe.simulate.checks import Checks
from dpipe.simulate.errors import InputError, InvariantError
from dpipe.simulate.faults import Fault
from dpipe.simulate.held import Kept
from dpipe.simulate.jobs import End, Job
from dpipe.simulate.load import Request
from dpipe.simulate.mishaps import happens
from dpipe.simulate.peers import Worker
from dpipe.simulate.scenario import Outcome, Scenario

# Without a fault no worker falls silent, and none has to say that it lives.
_NO_LEASE: Final = 1e9
_FAR: Final = 1e15
# Of the virtual clock, without the end of any job although there are some.
STUCK_SECONDS: Final = 1e6


class Simulation:
    """One run. Raises InvariantError where the core does what it must not."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: int, *, passes: int = 0) -> None:
        self.now = 0.0
        self.fleet = scenario.fleet
        self.outcome = Outcome()
        self.jobs: dict[str, Job] = {}
        self.scenario = scenario
        self._faulty = scenario.faults is not None
        self._policy = policy if self._faulty else _without_leases(policy)
        # Of each use a source of its own, so that what one policy draws more of changes nothing else.
        self._arrivals = Arrivals(scenario, self.outcome, random.Random(f"{seed} load"))
        self._random = random.Random(f"{seed} streams")
        self._faults = scenario.faults(random.Random(f"{seed} faults")) if scenario.faults else iter(())
        self._agenda: list[tuple[float, int, Callable[[Any, int], None], Any, int]] = []
        self._pending: deque[tuple[Worker | None, int, Event[Kept]]] = deque()
        self._numbers = 0
        self._lines = 0
        self._lives = 1
        self._due: float | None = None
        self._kills: dict[str, int] = {}
        self._arriving = self._failing = True
        self._ended_at = 0.0
        self.core = self._new_core()
        self.checks = Checks(self.core, passes=passes)
        self.workers: dict[str, Worker] = {}
        self._at: dict[str, Worker] = {}
        for group in scenario.fleet.groups:
            for number in range(group.peers):
                name = f"{group.name}-{number}"
                self.workers[name] = Worker(self, group, name, scenario.adapters)
            self.outcome.peers[group.name] = self.outcome.peers.get(group.name, 0) + group.peers
        for worker in self.workers.values():
            self.attach(worker, worker.life)
        self._next_request(None, 0)
        self._next_fault(None, 0)

    def _new_core(self) -> Core[Kept]:
        return Core(self._policy, epoch=f"e{self._lives}", now=self.now)

    # ------------------------------------------------------------ the clock

    def run(self) -> Outcome:
        agenda = self._agenda
        self._hear()
        while self._arriving or self._failing or self.jobs:
            due = self._due
            if due is not None and (not agenda or due <= agenda[0][0]):
                if due > max(self.now, self._ended_at) + STUCK_SECONDS:
                    self._stuck()
                self.now = max(self.now, due)
                self._tell(Tick())
            elif agenda:
                self.now, _, do, what, version = heapq.heappop(agenda)
                do(what, version)
            else:
                self._stuck()
            self._hear()
            if self.now > self._ended_at + STUCK_SECONDS and self.jobs:
                self._stuck()
        self._come_to_rest()
        self._sum_up()
        return self.outcome

    def _stuck(self) -> None:
        job_id = next(iter(self.jobs))
        state = self.core.jobs[job_id].state.name if job_id in self.core.jobs else "unknown to the router"
        roles = ", ".join(sorted({peer.pod_name for peer in self.core.peers.values()})) or "no peer"
        raise InvariantError(
            f"no starvation: {len(self.jobs)} jobs never end, the first is {job_id} ({state}), at {self.now:.3f} s; "
            f"there are: {roles}"
        )

    def _come_to_rest(self) -> None:
        """Everything on its way arrives, and whoever is gone is known to be."""
        policy = self._policy
        until = self.now + 1.0
        if self._faulty:
            # A reader of an earlier life is waited for, then one that is lost; whoever is cut off comes back.
            until = self.now + policy.settle + 2 * policy.grace + 4 * policy.lease
        while True:
            self._hear()
            when = min(self._agenda[0][0] if self._agenda else _FAR, self._due if self._due is not None else _FAR)
            if when > until:
                break
            if self._due is not None and self._due <= when:
                self.now = max(self.now, self._due)
                self._tell(Tick())
            else:
                self.now, _, do, what, version = heapq.heappop(self._agenda)
                do(what, version)
        self.checks.at_rest()

    def later(self, seconds: float, do: Callable[[Any, int], None], what: Any, version: int) -> None:
        self._numbers += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._numbers, do, what, version))

    # ------------------------------------------------------------ router

    def tell_soon(self, event: Event[Kept]) -> None:
        """After all that is under way just now."""
        self._pending.append((None, 0, event))

    def _hear(self) -> None:
        pending = self._pending
        while pending:
            worker, line, event = pending.popleft()
            if worker is None or worker.line == line:
                self._tell(event)

    def _tell(self, event: Event[Kept]) -> None:
        core, checks = self.core, self.checks
        checks.before(event)
        actions = core.handle(event, self.now)
        self._due = core.wakeup()
        checks.after(event, actions)
        for action in actions:
            do = _CARRIED_OUT.get(type(action))
            if do is not None:
                do(self, action)

    def _execute(self, action: Execute[Kept]) -> None:
        job = self.jobs[action.job_id]
        source = action.input
        if source is not None and source.step and source.incarnation != action.incarnation:
            self.outcome.moved += 1
        self._down(action, job)

    def _command(self, action: CancelTask | ParkTask | ReleaseSlot) -> None:
        self._down(action, None)

    def _refuse(self, action: Refuse) -> None:
        worker = self._at.get(action.incarnation)
        if worker is None:
            return
        if action.reason is RefusalReason.INCOMPATIBLE:
            raise InputError(f"{self.scenario.name}: the router takes no such peer: {action.message}")
        worker.obey(action, None)
        self.cut(worker)
        # One that is fenced comes back as another at once, any other when whoever has its name may be gone.
        wait = 0.0 if action.reason is RefusalReason.FENCED else 1.0
        self.later(wait, self.attach, worker, worker.life)

    def _killed(self, action: JobKilled) -> None:
        self._kills[action.job_id] = action.kills

    def _ended(self, action: JobEnded[Kept]) -> None:
        job = self.jobs.pop(action.job_id)
        self._kills.pop(action.job_id, None)
        self._ended_at = self.now
        out, request = self.outcome, job.request
        out.again_steps += job.again_steps
        out.again_seconds += job.again_seconds
        out.ends.append(
            End(
                job.label,
                request.tenant,
                request.priority,
                request.at,
                self.now,
                job.solo,
                job.target,
                action.status,
                action.kind,
                bool(request.adapters),
                job.predicted,
            )
        )
        self.tell_soon(JobRecorded(action.job_id))

    # ------------------------------------------------------------ streams

    def up(self, worker: Worker, event: Event[Kept]) -> None:
        if not worker.attached:
            return
        if worker.latency:
            self.later(worker.latency, self._arrives, (worker, event), worker.line)
        else:
            self._pending.append((worker, worker.line, event))

    def _arrives(self, message: tuple[Worker, Event[Kept]], line: int) -> None:
        worker, event = message
        if worker.line == line:
            self._pending.append((worker, line, event))

    def _down(self, action: Execute[Kept] | CancelTask | ParkTask | ReleaseSlot, job: Job | None) -> None:
        worker = self._at.get(action.incarnation)
        if worker is None or not worker.attached:
            return
        if worker.latency:
            self.later(worker.latency, self._obeys, (worker, action, job), worker.line)
        else:
            worker.obey(action, job)

    def _obeys(self, message: tuple[Worker, Action[Kept], Job | None], line: int) -> None:
        worker, action, job = message
        if worker.line == line:
            worker.obey(action, job)

    def attach(self, worker: Worker, life: int) -> None:
        if not worker.alive or worker.attached or worker.life != life:
            return
        self._lines += 1
        worker.line, worker.attached = self._lines, True
        worker.latency = self._random.uniform(0.0, self.scenario.latency) if self.scenario.latency else 0.0
        self._at[worker.incarnation] = worker
        self.up(worker, worker.registration())
        if self._faulty:
            self.later(self._policy.lease / 3, self._beats, worker, worker.line)

    def _beats(self, worker: Worker, line: int) -> None:
        if worker.line == line:
            worker.heartbeat()
            self.later(self._policy.lease / 3, self._beats, worker, line)

    def cut(self, worker: Worker) -> None:
        if worker.attached:
            worker.attached, worker.line = False, 0
            self.tell_soon(PeerDisconnected(worker.incarnation))

    # ------------------------------------------------------------ what workers need

    def incarnation(self) -> str:
        self._numbers += 1
        return f"i{self._numbers}"

    def keeps(self, kept: Kept) -> bool:
        worker = self._at.get(kept.incarnation)
        return worker is not None and worker.incarnation == kept.incarnation and kept.task_id in worker.outputs

    def gone(self, worker: Worker) -> None:
        """Its last word is on its way."""
        self.later(worker.latency, self._leaves, worker, worker.life)

    def _leaves(self, worker: Worker, life: int) -> None:
        if worker.alive and worker.life == life:
            worker.die()
            self.cut(worker)
            self.later(worker.back, self.start, worker, worker.life)

    def start(self, worker: Worker, life: int) -> None:
        if worker.life == life:
            worker.start()
            self.attach(worker, worker.life)

    # ------------------------------------------------------------ requests and faults

    def _next_request(self, request: Request | None, _: int) -> None:
        for job in self._arrivals.jobs(request, self.core, self.now) if request is not None else ():
            self.jobs[job.id] = job
            self.tell_soon(submission(job))
        following = self._arrivals.next()
        if following is None:
            self._arriving = False
        else:
            self.later(max(0.0, following.at - self.now), self._next_request, following, 0)

    def _next_fault(self, fault: Fault | None, _: int) -> None:
        if fault is not None:
            self.outcome.faults[fault.kind] = self.outcome.faults.get(fault.kind, 0) + 1
            happens(self, fault)
        following = next(self._faults, None)
        if following is None:
            self._failing = False
        else:
            self.later(max(0.0, following.at - self.now), self._next_fault, following, 0)

    def restart(self) -> None:
        """The router ends, and another life of it starts on what was written down."""
        self._hear()
        self._lives += 1
        self.core = self._new_core()
        self._due = None
        self.checks.router_restarts(self.core)
        for job in self.jobs.values():
            self.tell_soon(submission(job, kills=self._kills.get(job.id, 0), restored=True))
        for worker in self.workers.values():
            if worker.attached:
                worker.attached, worker.line = False, 0
                self.later(self._random.uniform(0.0, self._policy.settle / 2), self.attach, worker, worker.life)

    # ------------------------------------------------------------ what came of it

    def _sum_up(self) -> None:
        out = self.outcome
        out.seconds = max((end.ended for end in out.ends), default=0.0)
        out.events = self.checks.events
        for worker in self.workers.values():
            role = worker.group.name
            out.busy[role] = out.busy.get(role, 0.0) + worker.busy_seconds
            out.loads += worker.loads
            out.parks += worker.parks
            for stage, number in worker.computed.items():
                out.computed[stage] += number


_CARRIED_OUT: Final[dict[type, Callable[[Simulation, Any], None]]] = {
    Execute: Simulation._execute,
    CancelTask: Simulation._command,
    ParkTask: Simulation._command,
    ReleaseSlot: Simulation._command,
    Refuse: Simulation._refuse,
    JobKilled: Simulation._killed,
    JobEnded: Simulation._ended,
}


def _without_leases(policy: Policy) -> Policy:
    return replace(policy, lease=_NO_LEASE)
