"""Which of the jobs that wait is next, and which that runs gives way: what the scheduler asks a policy.

A policy is frozen data (`Fifo` here, `Deadline` in its own module); what it remembers between two questions is its
`Ordering`. The scheduler keeps jobs in queues, one for each set of peers that could take them, and compares the first
of each by their keys. So a policy says in which order, and never where: that is the scheduler's alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol

from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import R, Stage
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job, Task

Key = tuple[float, ...]
"""Of jobs of one stage, the lowest is next."""
First = tuple[Key, str]


@dataclass(slots=True, eq=False)
class Going(Generic[R]):
    """A denoising that could give way. left, slack: seconds until its job has ended, and by how much that is before its
    target, as of its last step. As long as it runs its slack stays what it is."""

    task: Task[R]
    peer: Peer[R]
    job: Job[R]
    left: float = 0.0
    slack: float = 0.0


class Queue(Protocol[R]):
    """Jobs of one stage that the same peers could start."""

    def __bool__(self) -> bool: ...

    def push(self, job: Job[R]) -> None:
        """One that waits, once: who is here already stays where it is."""

    def first(self, now: float) -> First | None:
        """The next one, with its key."""

    def next(self, now: float, most: int) -> list[str]:
        """Ids of those to whom others may give way, the first ones first."""

    def discard(self, job_id: str) -> None: ...

    def __iter__(self) -> Iterator[str]:
        """Ids of all that wait here, in any order."""


class Ordering(Protocol[R]):
    preempts: bool
    """Whether a job that runs ever gives way to one that waits."""
    commits_early: bool
    """Whether a task is sent to a busy peer long before that has done what it runs: nobody can overtake it there."""

    def queue(self, stage: Stage) -> Queue[R]: ...

    def weigh(self, job: Job[R]) -> None:
        """To be called before the job is pushed: what it is ordered by."""

    def epoch(self, stage: Stage) -> int:
        """Another, when keys that queues gave before may be too high."""

    def started(self, job: Job[R], queue: Queue[R], *, in_turn: bool) -> float:
        """To be called when a job of this queue is given to a peer, before it is discarded. in_turn: not because
        another gave way to it. The order of its task among those that wait there."""

    def left(self, job: Job[R]) -> float:
        """Seconds until one that is denoised has ended."""

    def yields(self, running: Going[R], to: Job[R], now: float) -> float | None:
        """How gladly the one gives way to the other. None: not at all."""


@dataclass(frozen=True, slots=True)
class Fifo:
    """The oldest job first; nothing that runs gives way."""

    def ordering(self, estimates: Estimates) -> Ordering[R]:
        return _InOrder()


class Scheduling(Protocol):
    """A policy."""

    def ordering(self, estimates: Estimates) -> Ordering[R]: ...


class _InOrder(Generic[R]):
    preempts = False
    commits_early = True

    def queue(self, stage: Stage) -> Queue[R]:
        return _ByAge()

    def weigh(self, job: Job[R]) -> None:
        pass

    def epoch(self, stage: Stage) -> int:
        return 0

    def started(self, job: Job[R], queue: Queue[R], *, in_turn: bool) -> float:
        return 0.0

    def left(self, job: Job[R]) -> float:
        return 0.0

    def yields(self, running: Going[R], to: Job[R], now: float) -> float | None:
        return None


class _ByAge(Generic[R]):
    """Entries that were discarded are passed over when met."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._waiting: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)

    def push(self, job: Job[R]) -> None:
        if job.id not in self._waiting:
            self._waiting.add(job.id)
            heapq.heappush(self._heap, (job.seq, job.id))

    def first(self, now: float) -> First | None:
        while self._heap and self._heap[0][1] not in self._waiting:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        seq, job_id = self._heap[0]
        return (seq,), job_id

    def next(self, now: float, most: int) -> list[str]:
        return []

    def discard(self, job_id: str) -> None:
        self._waiting.discard(job_id)
