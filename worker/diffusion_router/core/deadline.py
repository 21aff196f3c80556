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
  costs counts, and nobody gives way more than so often.

The rules, and what others came to on the same loads, are in docs/figures.md#scheduling.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, Generic

from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import Priority, R, Stage
from diffusion_router.core.ordering import First, Ordering, Queue
from diffusion_router.core.state import Job

# Beyond every time: between those on time and those that are late, and between priorities.
_LATE: Final = 1e11
_PRIORITY: Final = 1e12
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
        # Starts, while some are late, since one of them was the oldest's.
        self._since_late: dict[Stage, int] = defaultdict(int)
        # Predicted work given to each tenant, in seconds; who comes back has had as much as the least of those here.
        self.given: dict[Priority, dict[str, float]] = defaultdict(dict)
        self._least: dict[Priority, float] = defaultdict(float)

    def queue(self, stage: Stage) -> Queue[R]:
        return _ByTarget(self, stage)

    def weigh(self, job: Job[R]) -> None:
        job.due = job.since + (job.target or self._policy.target_factor * self._estimates.work(job.shape))
        job.work = self._estimates.work(job.shape, job.stage, job.share_left)

    def epoch(self, stage: Stage) -> int:
        return int(self.is_lates_turn(stage))

    def is_lates_turn(self, stage: Stage) -> bool:
        return 0 < self._policy.late_share <= self._since_late[stage] + 1

    def given_to(self, priority: Priority, tenant: str) -> float:
        least = self._least[priority]
        return max(self.given[priority].get(tenant, least), least)

    def started(self, job: Job[R], queue: Queue[R], *, in_turn: bool) -> float:
        assert isinstance(queue, _ByTarget)
        stage, late = job.stage, queue.is_late(job.id)
        by_share = late and in_turn and self.is_lates_turn(stage)
        if by_share:
            self._since_late[stage] = 0
        elif queue.any_late and in_turn:
            self._since_late[stage] += 1
        if stage is Stage.DENOISE:
            self._charge(job)
        if by_share:
            return 0.0
        return job.priority * _PRIORITY + (_LATE + job.work if late else job.due)

    def _charge(self, job: Job[R]) -> None:
        given = self.given[job.priority]
        before = self.given_to(job.priority, job.tenant)
        self._least[job.priority] = before
        given.pop(job.tenant, None)
        given[job.tenant] = before + job.work
        if len(given) > _MAX_TENANTS:
            del given[next(iter(given))]

    def yields(self, running: Job[R], to: Job[R], now: float) -> float | None:
        if running.parks >= self._policy.max_parks or to.priority > running.priority:
            return None
        left = self._estimates.work(running.shape, Stage.DENOISE, running.share_left)
        pause = self._estimates.pause
        if self._estimates.seconds(Stage.DENOISE, running.shape) * running.share_left <= 2 * pause:
            return None
        slack = running.due - now - left
        if to.priority < running.priority:
            return 2 * _LATE + slack
        if now + to.work > to.due:
            return None
        if slack < 0:
            return _LATE + left
        return running.due if to.due < running.due and slack >= to.work + pause else None


@dataclass(slots=True, eq=False)
class _Entry(Generic[R]):
    job: Job[R]
    late: bool = False
    gone: bool = False


class _OfTenant(Generic[R]):
    """Heaps of (what they are ordered by, age, entry)."""

    def __init__(self) -> None:
        self.on_time: list[tuple[float, int, _Entry[R]]] = []
        self.late: list[tuple[float, int, _Entry[R]]] = []

    def first(self, queue: _ByTarget[R], now: float) -> tuple[float, float, _Entry[R]] | None:
        while self.on_time:
            due, _, entry = self.on_time[0]
            if not entry.gone and now + entry.job.work <= due:
                return 0, due, entry
            heapq.heappop(self.on_time)
            if not entry.gone:
                entry.late = True
                heapq.heappush(self.late, (entry.job.work, queue.number(), entry))
                queue.has_late(entry)
        while self.late and self.late[0][2].gone:
            heapq.heappop(self.late)
        return (1, self.late[0][0], self.late[0][2]) if self.late else None

    def next(self, now: float, most: int) -> list[str]:
        """Those on time, in order. The children of a heap's entry come after it: no more than these are looked at."""
        found: list[str] = []
        seen = [(*self.on_time[0][:2], 0)] if self.on_time else []
        looks = 0
        while seen and len(found) < most and looks < 4 * most:
            looks += 1
            _, _, index = heapq.heappop(seen)
            entry = self.on_time[index][2]
            if not entry.gone and now + entry.job.work <= entry.job.due:
                found.append(entry.job.id)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(self.on_time):
                    heapq.heappush(seen, (*self.on_time[child][:2], child))
        return found


class _ByTarget(Generic[R]):
    def __init__(self, ordering: ByDeadline[R], stage: Stage) -> None:
        self._ordering = ordering
        self._stage = stage
        self._entries: dict[str, _Entry[R]] = {}
        self._tenants: dict[Priority, dict[str, _OfTenant[R]]] = {}
        self._late: list[tuple[int, int, _Entry[R]]] = []
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def number(self) -> int:
        """So that two entries that are ordered by the same are never compared."""
        return next(self._numbers)

    def has_late(self, entry: _Entry[R]) -> None:
        heapq.heappush(self._late, (entry.job.seq, self.number(), entry))

    @property
    def any_late(self) -> bool:
        while self._late and self._late[0][2].gone:
            heapq.heappop(self._late)
        return bool(self._late)

    def is_late(self, job_id: str) -> bool:
        return self._entries[job_id].late

    def push(self, job: Job[R]) -> None:
        if job.id not in self._entries:
            entry = self._entries[job.id] = _Entry(job)
            tenants = self._tenants.setdefault(job.priority, {})
            of_tenant = tenants.setdefault(job.tenant, _OfTenant())
            heapq.heappush(of_tenant.on_time, (job.due, self.number(), entry))

    def discard(self, job_id: str) -> None:
        entry = self._entries.pop(job_id, None)
        if entry is not None:
            entry.gone = True

    def next(self, now: float, most: int) -> list[str]:
        found: list[str] = []
        for priority in sorted(self._tenants):
            of_priority = ((self._ordering.given_to(priority, tenant), tenant) for tenant in self._tenants[priority])
            for _, tenant in sorted(of_priority):
                found += self._tenants[priority][tenant].next(now, most - len(found))
                if len(found) >= most:
                    return found
        return found

    def first(self, now: float) -> First | None:
        best = self._best(now)
        if best is None or not (self._ordering.is_lates_turn(self._stage) and self.any_late):
            return best
        seq, _, oldest = self._late[0]
        return (-1.0, seq), oldest.job.id

    def _best(self, now: float) -> First | None:
        for priority in sorted(self._tenants):
            tenants = self._tenants[priority]
            found: list[tuple[tuple[float, ...], str]] = []
            for tenant, of_tenant in list(tenants.items()):
                first = of_tenant.first(self, now)
                if first is None:
                    del tenants[tenant]
                    continue
                late, by, entry = first
                key = (float(priority), self._ordering.given_to(priority, tenant), late, by, entry.job.seq)
                found.append((key, entry.job.id))
            if found:
                return min(found)
            del self._tenants[priority]
        return None
