"""Denoisings that could give way to others: those with the latest targets and those with the earliest."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Generic

from diffusion_router.core.events import R
from diffusion_router.core.state import Task


class Running(Generic[R]):
    def __init__(self, looked_at: int) -> None:
        """looked_at: of so many at each end, not of all, is one chosen."""
        self._looked_at = looked_at
        self._by_due: dict[str, list[tuple[float, str]]] = {}
        self._tasks: dict[str, tuple[str, float, Task[R]]] = {}

    def add(self, generation: str, due: float, task: Task[R]) -> None:
        if task.id not in self._tasks:
            self._tasks[task.id] = (generation, due, task)
            insort(self._by_due.setdefault(generation, []), (due, task.id))

    def discard(self, task_id: str) -> None:
        found = self._tasks.pop(task_id, None)
        if found is not None:
            generation, due, _ = found
            by_due = self._by_due[generation]
            del by_due[bisect_left(by_due, (due, task_id))]
            if not by_due:
                del self._by_due[generation]

    def candidates(self, generation: str) -> Iterator[Task[R]]:
        """Who can wait the longest, and, from the other end, who is the latest."""
        by_due = self._by_due.get(generation, [])
        latest = islice(reversed(by_due), self._looked_at)
        earliest = islice(by_due, min(self._looked_at, max(0, len(by_due) - self._looked_at)))
        for entries in (latest, earliest):
            for _, task_id in entries:
                yield self._tasks[task_id][2]
