"""Which denoisings give way to jobs that wait, and to which (they are parked, and go on later: I12).

Jobs that are next in their queue are held against all that runs, once, and from then on against whatever begins or
makes a step. Looked at are the first few of each queue, since what the first one would need nobody may be able to give
while the second needs little; and of what runs, those with the latest targets and those with the earliest. So an event
costs neither the length of a queue nor the size of the fleet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import can_take
from diffusion_router.core.ordering import Ordering, Queue
from diffusion_router.core.state import Job, Peer, Task

# Jobs of each queue that are looked at.
FIRST: Final = 8


@dataclass(slots=True, eq=False)
class Way(Generic[R]):
    """The task is to be parked; its place is the job's."""

    task: Task[R]
    peer: Peer[R]
    job: Job[R]
    queue: Queue[R]


@dataclass(slots=True, eq=False)
class _HeldBack(Generic[R]):
    """A queue for whose jobs there is no place; those of them that were held against all that runs."""

    queue: Queue[R]
    generations: tuple[str, ...]
    only: str
    """The one peer that could take them; empty: any of the generations."""
    compared: set[str] = field(default_factory=set)


class GivingWay(Generic[R]):
    def __init__(
        self, jobs: Mapping[str, Job[R]], peers: Mapping[str, Peer[R]], ordering: Ordering[R], looked_at: int
    ) -> None:
        """looked_at: tasks that are looked at from each end."""
        self._jobs = jobs
        self._peers = peers
        self._ordering = ordering
        self._looked_at = looked_at
        self._by_due: dict[str, list[tuple[float, str]]] = {}
        self._tasks: dict[str, tuple[str, float, Task[R]]] = {}
        self._held_back: dict[object, _HeldBack[R]] = {}
        self._anew: set[object] = set()
        self._stepped: list[Task[R]] = []

    @property
    def settled(self) -> bool:
        return not (self._anew or self._stepped)

    # ------------------------------------------------------------ what changes

    def runs(self, peer: Peer[R], task: Task[R], job: Job[R]) -> None:
        """To be called when a denoising that can be parked begins, or makes a step."""
        if not self._ordering.preempts or task.parking or task.abandoned or task.ends_soon:
            return
        if task.id not in self._tasks:
            self._tasks[task.id] = (peer.generation, job.due, task)
            insort(self._by_due.setdefault(peer.generation, []), (job.due, task.id))
        if self._held_back:
            self._stepped.append(task)

    def stops(self, task_id: str) -> None:
        """To be called when it computes no more, or is to be parked."""
        found = self._tasks.pop(task_id, None)
        if found is not None:
            generation, due, _ = found
            by_due = self._by_due[generation]
            del by_due[bisect_left(by_due, (due, task_id))]
            if not by_due:
                del self._by_due[generation]

    def hold_back(self, place: object, queue: Queue[R], generations: tuple[str, ...], only: str) -> None:
        """To be called when there is no place for the first job of this queue."""
        if not self._ordering.preempts:
            return
        held = self._held_back.get(place)
        if held is None or held.queue is not queue:
            held = self._held_back[place] = _HeldBack(queue, generations, only)
        held.generations, held.only = generations, only
        self._anew.add(place)

    def forget(self, place: object) -> None:
        """To be called when nothing waits there any more."""
        self._held_back.pop(place, None)

    # ------------------------------------------------------------ what follows

    def ways(self, now: float) -> Iterator[Way[R]]:
        """One after the other: what is said of one is to be done before the next is asked for."""
        stepped, self._stepped = self._stepped, []
        anew, self._anew = self._anew, set()
        for place in list(self._held_back) if stepped else anew:
            held = self._held_back.get(place)
            if held is None:
                continue
            first = held.queue.next(now, FIRST)
            held.compared.intersection_update(first)
            for job_id in first:
                job = self._jobs.get(job_id)
                if job is None or not job.ready(Stage.DENOISE, now):
                    continue
                known = job_id in held.compared
                held.compared.add(job_id)
                tasks = stepped if known else self._candidates(held.generations)
                if (way := self._way(held, job, tasks, now)) is not None:
                    yield way

    def _candidates(self, generations: Iterable[str]) -> list[Task[R]]:
        found: list[tuple[float, str]] = []
        for generation in generations:
            by_due = self._by_due.get(generation, [])
            found += islice(reversed(by_due), self._looked_at)
            found += islice(by_due, min(self._looked_at, max(0, len(by_due) - self._looked_at)))
        return [self._tasks[task_id][2] for _, task_id in found]

    def _way(self, held: _HeldBack[R], job: Job[R], tasks: Iterable[Task[R]], now: float) -> Way[R] | None:
        best: tuple[float, Way[R]] | None = None
        for task in tasks:
            peer, running = self._peers.get(task.incarnation), self._jobs.get(task.job_id)
            if peer is None or running is None or running.task is not task or not self._can_park(task, peer, running):
                continue
            if not self._can_go_there(held, job, peer):
                continue
            gladly = self._ordering.yields(running, job, now)
            if gladly is not None and (best is None or gladly > best[0]):
                best = gladly, Way(task, peer, job, held.queue)
        return best[1] if best is not None else None

    def _can_park(self, task: Task[R], peer: Peer[R], running: Job[R]) -> bool:
        # A job that may have killed a worker runs alone, and to its end.
        suspect = running.kills or running.suspect
        return not (task.parking or task.abandoned or task.ends_soon or suspect) and task.resumable

    def _can_go_there(self, held: _HeldBack[R], job: Job[R], peer: Peer[R]) -> bool:
        if (held.only and held.only != peer.incarnation) or peer.generation not in held.generations:
            return False
        if not peer.takes_tasks or peer.incarnation in job.avoid or not can_take(peer, job):
            return False
        # Behind whatever is on its way there it would wait.
        return peer.load <= 0 and peer.free_slots >= peer.needs[Stage.DENOISE]
