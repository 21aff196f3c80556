"""The order of deadlines: as many jobs as possible end by their target, and nobody waits for ever.

Each job has a target beside its deadline, when it should have ended: its request's, or so many times what it would take
alone. What it still needs is predicted from what its shape has taken.

* A job that can still meet its target is *on time*; the earliest target is first. One that can't is *late*, and comes
  after those on time: it steps back, since plain earliest-deadline-first collapses when there is too much to do. Of
  late ones that with the least left to do is first, and of every so many starts while some are late one is the
  oldest's, so that the tail is bounded.
* Priorities are above that, and within a priority tenants: that one is next that was given the least work.
* At a step, a job that runs gives way to one on time with an earlier target, if it can wait for all that that one needs
  and still meet its own; or if it is late itself. One of a lower priority gives way to any of a higher. What a pause
  costs counts, and nobody gives way more than so often; nor, while few are late, one of them that has its turn.

The rules, and what others came to on the same loads, are in docs/figures.md#scheduling.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic
from weakref import WeakSet

from diffusion_router.core.by_target import ByTarget
from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import Priority, R, Stage
from diffusion_router.core.lifecycle import JobState
from diffusion_router.core.ordering import Going, Ordering, Queue
from diffusion_router.core.state import Job

# Beyond every time: between those on time and those that are late, and between priorities.
_LATE: Final = 1e11
_PRIORITY: Final = 1e12
# Where no more jobs than these are late, one that runs by their share does not give way, once it has taken so many
# times as long as it should have: else those on time could put it off for ever. With more there is too much to do.
_FEW: Final = 8
_LONG_LATE: Final = 1.2
# Tenants whose work is remembered while they have no job here.
_MAX_TENANTS: Final = 4096


@dataclass(frozen=True, slots=True)
class Deadline:
    target_factor: float = 3.0
    """A job's target, unless its request names one: so many times what it is predicted to take alone."""
    late_share: int = 4
    """Of so many starts while jobs are late, one is the oldest's of them. 0: none is."""
    max_parks: int = 32
    """Times that one job gives way."""

    def ordering(self, estimates: Estimates) -> Ordering[R]:
        return ByDeadline(self, estimates)


class ByDeadline(Generic[R]):
    preempts = True
    commits_early = False

    def __init__(self, policy: Deadline, estimates: Estimates) -> None:
        self._policy = policy
        self._estimates = estimates
        # By stage, those in use: jobs wait in one for each set of peers that could take them.
        self._queues: dict[Stage, WeakSet[ByTarget[R]]] = defaultdict(WeakSet)
        # Starts, while some are late, since one of them was the oldest's.
        self._since_late: dict[Stage, int] = defaultdict(int)
        # It runs by the share of the late, the last that was given one.
        self._sheltered: Job[R] | None = None
        # Predicted work given to each tenant, in seconds; who comes back has had as much as the least of those here.
        self.given: dict[Priority, dict[str, float]] = defaultdict(dict)
        self._least: dict[Priority, float] = defaultdict(float)

    def queue(self, stage: Stage) -> Queue[R]:
        queue: ByTarget[R] = ByTarget(partial(self.is_lates_turn, stage), self.given_to)
        self._queues[stage].add(queue)
        return queue

    def weigh(self, job: Job[R]) -> None:
        job.due = job.since + (job.target or self._policy.target_factor * self._estimates.work(job.shape))
        job.work = self._estimates.work(job.shape, job.stage, job.share_left)

    def epoch(self, stage: Stage) -> int:
        return int(self.is_lates_turn(stage))

    def is_lates_turn(self, stage: Stage) -> bool:
        """Whether the next start is that of the oldest late one."""
        return 0 < self._policy.late_share <= self._since_late[stage] + 1

    def given_to(self, priority: Priority, tenant: str) -> float:
        """Seconds of work. Never less than before."""
        least = self._least[priority]
        return max(self.given[priority].get(tenant, least), least)

    def started(self, job: Job[R], queue: Queue[R], *, in_turn: bool) -> float:
        assert isinstance(queue, ByTarget)
        stage, late = job.stage, queue.is_late(job.id)
        lates = sum(each.late for each in self._queues[stage])
        by_share = late and in_turn and self.is_lates_turn(stage)
        if by_share:
            self._since_late[stage] = 0
            if stage is Stage.DENOISE and lates <= _FEW and not self._shelters():
                self._sheltered = job
        elif lates and in_turn:
            self._since_late[stage] += 1
        if stage is Stage.DENOISE:
            self._charge(job, in_turn=in_turn and not by_share)
        if by_share:
            return 0.0
        return job.priority * _PRIORITY + (_LATE + job.work if late else job.due)

    def _shelters(self) -> bool:
        job = self._sheltered
        return job is not None and job.state is JobState.DENOISING

    def _is_sheltered(self, job: Job[R], now: float) -> bool:
        return job is self._sheltered and now - job.since > _LONG_LATE * (job.due - job.since)

    def _charge(self, job: Job[R], *, in_turn: bool) -> None:
        given = self.given[job.priority]
        before = self.given_to(job.priority, job.tenant)
        if in_turn:
            # Nobody who waits was given less.
            self._least[job.priority] = before
        given.pop(job.tenant, None)
        given[job.tenant] = before + job.work
        if len(given) > _MAX_TENANTS:
            del given[next(iter(given))]

    def left(self, job: Job[R]) -> float:
        return self._estimates.work(job.shape, Stage.DENOISE, job.share_left)

    def yields(self, running: Going[R], to: Job[R], now: float) -> float | None:
        job, slack, pause = running.job, running.slack, self._estimates.pause
        if job.parks >= self._policy.max_parks or to.priority > job.priority or running.left <= 2 * pause:
            return None
        if to.priority < job.priority:
            return 2 * _LATE + slack
        if now + to.work > to.due or self._is_sheltered(job, now):
            return None
        if slack < 0:
            return _LATE + running.left
        return job.due if to.due < job.due and slack >= to.work + pause else None
