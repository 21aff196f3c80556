"""Jobs that wait, by priority, by what their tenant was given, and by their targets: those on time, then those late.

Heaps all the way, so that a push, a look and a start cost the logarithm of what waits, however many it is of. What they
are ordered by only ever grows while an entry waits: a tenant is given more, one that was on time becomes late. So an
entry that has come to the top is looked at again, and goes back if it is not what it was; what lies deeper may be out
of date.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from diffusion_router.core.events import Priority, R
from diffusion_router.core.ordering import First, Key
from diffusion_router.core.state import Job

K = TypeVar("K", bound=Any)
E = TypeVar("E")
GivenTo = Callable[[Priority, str], float]


@dataclass(slots=True, eq=False)
class _Entry(Generic[R]):
    job: Job[R]
    late: bool = False
    gone: bool = False


class _OfTenant(Generic[R]):
    """Entries by target, and those late by the work that is left; the second number only keeps entries apart."""

    __slots__ = ("key", "late", "name", "on_time")

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_time: list[tuple[float, int, _Entry[R]]] = []
        self.late: list[tuple[float, int, _Entry[R]]] = []
        self.key: Key = ()
        # With which it is entered among the tenants of its priority. Empty: it is not.

    def first(self, now: float, turns_late: Callable[[_Entry[R]], int]) -> tuple[float, float, _Entry[R]] | None:
        """Whether it is late, by what it is ordered, and itself."""
        while self.on_time:
            due, _, entry = self.on_time[0]
            if not entry.gone and now + entry.job.work <= due:
                return 0, due, entry
            heapq.heappop(self.on_time)
            if not entry.gone:
                entry.late = True
                heapq.heappush(self.late, (entry.job.work, turns_late(entry), entry))
        while self.late and self.late[0][2].gone:
            heapq.heappop(self.late)
        return (1, self.late[0][0], self.late[0][2]) if self.late else None

    def next(self, now: float, most: int) -> list[str]:
        """Some of those on time, in order; if there are none, one that is late."""
        found: list[str] = []
        for _, _, entry in _in_order(self.on_time, 4 * most):
            if not entry.gone and now + entry.job.work <= entry.job.due:
                found.append(entry.job.id)
                if len(found) == most:
                    break
        return found or [entry.job.id for _, _, entry in self.late[:1] if not entry.gone]


class _OfPriority(Generic[R]):
    """Its tenants that have a job here, by the key of the first of each."""

    def __init__(self) -> None:
        self.tenants: dict[str, _OfTenant[R]] = {}
        self.heap: list[tuple[Key, int, _OfTenant[R]]] = []


class ByTarget(Generic[R]):
    """Implements Queue."""

    def __init__(self, is_lates_turn: Callable[[], bool], given_to: GivenTo) -> None:
        self._is_lates_turn = is_lates_turn
        self._given_to = given_to
        self._entries: dict[str, _Entry[R]] = {}
        self._priorities: dict[Priority, _OfPriority[R]] = {}
        self._late: list[tuple[int, int, _Entry[R]]] = []
        self._numbers = count()
        self.late = 0
        """How many of them are."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def is_late(self, job_id: str) -> bool:
        return self._entries[job_id].late

    def push(self, job: Job[R]) -> None:
        if job.id in self._entries:
            return
        entry = self._entries[job.id] = _Entry(job)
        of_priority = self._priorities.setdefault(job.priority, _OfPriority())
        tenant = of_priority.tenants.get(job.tenant)
        if tenant is None:
            tenant = of_priority.tenants[job.tenant] = _OfTenant(job.tenant)
        heapq.heappush(tenant.on_time, (job.due, next(self._numbers), entry))
        key = self._key(job, 0, job.due)
        if not tenant.key or key < tenant.key:
            self._enter(of_priority, tenant, key)

    def discard(self, job_id: str) -> None:
        entry = self._entries.pop(job_id, None)
        if entry is not None:
            entry.gone = True
            self.late -= entry.late

    def first(self, now: float) -> First | None:
        best = self._best(now)
        if best is None or not (self._is_lates_turn() and self.late):
            return best
        while self._late[0][2].gone:
            heapq.heappop(self._late)
        seq, _, oldest = self._late[0]
        return (-1.0, seq), oldest.job.id

    def next(self, now: float, most: int) -> list[str]:
        found: list[str] = []
        for priority in sorted(self._priorities):
            for key, _, tenant in _in_order(self._priorities[priority].heap, 4 * most):
                if key == tenant.key:
                    found += tenant.next(now, most - len(found))
                if len(found) >= most:
                    return found
        return found

    def _key(self, job: Job[R], late: float, by: float) -> Key:
        return (float(job.priority), self._given_to(job.priority, job.tenant), late, by, job.seq)

    def _enter(self, of_priority: _OfPriority[R], tenant: _OfTenant[R], key: Key) -> None:
        tenant.key = key
        heapq.heappush(of_priority.heap, (key, next(self._numbers), tenant))

    def _best(self, now: float) -> First | None:
        """Of each priority the first is looked at, so that who is late there is known to be."""
        firsts = [self._first_of(priority, now) for priority in list(self._priorities)]
        return min((first for first in firsts if first is not None), default=None)

    def _first_of(self, priority: Priority, now: float) -> First | None:
        of_priority = self._priorities[priority]
        while of_priority.heap:
            key, _, tenant = of_priority.heap[0]
            first = tenant.first(now, self._turns_late) if key == tenant.key else None
            if first is None:
                heapq.heappop(of_priority.heap)
                if key == tenant.key:
                    del of_priority.tenants[tenant.name]
                    tenant.key = ()
                continue
            late, by, entry = first
            real = self._key(entry.job, late, by)
            if real == key:
                return key, entry.job.id
            tenant.key = real
            heapq.heapreplace(of_priority.heap, (real, next(self._numbers), tenant))
        del self._priorities[priority]
        return None

    def _turns_late(self, entry: _Entry[R]) -> int:
        self.late += 1
        heapq.heappush(self._late, (entry.job.seq, next(self._numbers), entry))
        return next(self._numbers)


def _in_order(heap: list[tuple[K, int, E]], most: int) -> Iterator[tuple[K, int, E]]:
    """The first so many of a heap, which stays as it is: what comes after an entry are the two below it."""
    below = [(*heap[0][:2], 0)] if heap else []
    for _ in range(most):
        if not below:
            return
        _, _, index = heapq.heappop(below)
        yield heap[index]
        for child in (2 * index + 1, 2 * index + 2):
            if child < len(heap):
                heapq.heappush(below, (*heap[child][:2], child))
