"""Tasks that wait for their turn, first things first."""

from __future__ import annotations

import heapq

from diffusion_worker.work.tasks import State, Task


class Waiting:
    """Those that end meanwhile are forgotten."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def add(self, task: Task) -> None:
        heapq.heappush(self._tasks, task)

    @property
    def first(self) -> Task | None:
        while self._tasks and self._tasks[0].state is State.ENDED:
            heapq.heappop(self._tasks)
        return self._tasks[0] if self._tasks else None

    def take(self) -> Task | None:
        """The first, which waits no more."""
        task = self.first
        if task is not None:
            heapq.heappop(self._tasks)
        return task
