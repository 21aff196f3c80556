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
from math import inf
from typing import Final, Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import can_take
from diffusion_router.core.ordering import Going, Ordering, Queue
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job, Task

# Jobs of each queue that are looked at, and tasks from each end.
FIRST: Final = 8
LOOKED_AT: Final = 16


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
    first: list[Job[R]] = field(default_factory=list)
    until: float = 0.0
    """When the first of those is late."""
    compared: set[str] = field(default_factory=set)


class GivingWay(Generic[R]):
    def __init__(self, jobs: Mapping[str, Job[R]], ordering: Ordering[R]) -> None:
        self._jobs = jobs
        self._ordering = ordering
        # By generation, and by task.
        self._by_due: dict[str, list[tuple[float, str]]] = {}
        self._going: dict[str, tuple[float, Going[R]]] = {}
        self._held_back: dict[object, _HeldBack[R]] = {}
        self._anew: dict[object, None] = {}
        self._stepped: list[Going[R]] = []

    @property
    def settled(self) -> bool:
        return not (self._anew or self._stepped)

    # ------------------------------------------------------------ what changes

    def runs(self, peer: Peer[R], task: Task[R], job: Job[R], now: float) -> None:
        """To be called when a denoising that can be parked begins, or makes a step."""
        if not self._ordering.preempts or task.parking or task.abandoned or task.ends_soon:
            return
        known = self._going.get(task.id)
        if known is None:
            known = self._going[task.id] = (job.due, Going(task, peer, job))
            insort(self._by_due.setdefault(peer.generation, []), (job.due, task.id))
        _, going = known
        going.left = self._ordering.left(job)
        going.slack = job.due - now - going.left
        if self._held_back:
            self._stepped.append(going)

    def stops(self, task_id: str) -> None:
        """To be called when it computes no more, or is to be parked."""
        found = self._going.pop(task_id, None)
        if found is not None:
            due, going = found
            generation = going.peer.generation
            by_due = self._by_due[generation]
            del by_due[bisect_left(by_due, (due, task_id))]
            if not by_due:
                del self._by_due[generation]

    def hold_back(self, place: object, queue: Queue[R], generations: tuple[str, ...]) -> None:
        """To be called when there is no place for the first job of this queue."""
        if not self._ordering.preempts:
            return
        held = self._held_back.get(place)
        if held is None or held.queue is not queue:
            held = self._held_back[place] = _HeldBack(queue, generations)
        held.generations = generations
        self._anew[place] = None

    def forget(self, place: object) -> None:
        """To be called when nothing waits there any more."""
        self._held_back.pop(place, None)

    # ------------------------------------------------------------ what follows

    def ways(self, now: float) -> Iterator[Way[R]]:
        """One after the other: what is said of one is to be done before the next is asked for."""
        stepped, self._stepped = self._stepped, []
        anew, self._anew = self._anew, {}
        for place in list(self._held_back) if stepped else anew:
            held = self._held_back.get(place)
            if held is None:
                continue
            if place in anew or now >= held.until:
                self._look(held, now)
            for job in held.first:
                if not job.ready(Stage.DENOISE, now):
                    continue
                known = job.id in held.compared
                held.compared.add(job.id)
                going = stepped if known else self._candidates(held.generations)
                if (way := self._way(held, job, going, now)) is not None:
                    yield way

    def _look(self, held: _HeldBack[R], now: float) -> None:
        """Who is first there: others are once its queue is another (`hold_back`), or one of them is late."""
        first = held.queue.next(now, FIRST)
        held.compared.intersection_update(first)
        held.first = [job for job_id in first if (job := self._jobs.get(job_id)) is not None]
        # A little early, since sums are rounded.
        held.until = min([job.due - job.work for job in held.first], default=inf) - 1e-6

    def _candidates(self, generations: Iterable[str]) -> list[Going[R]]:
        found: list[tuple[float, str]] = []
        for generation in generations:
            by_due = self._by_due.get(generation, [])
            found += by_due[-LOOKED_AT:]
            found += by_due[: min(LOOKED_AT, max(0, len(by_due) - LOOKED_AT))]
        return [self._going[task_id][1] for _, task_id in found]

    def _way(self, held: _HeldBack[R], job: Job[R], some: Iterable[Going[R]], now: float) -> Way[R] | None:
        best: tuple[float, Going[R]] | None = None
        for going in some:
            gladly = self._ordering.yields(going, job, now)
            if gladly is None or (best is not None and gladly <= best[0]):
                continue
            if _can_park(going) and _can_go_there(held, job, going.peer):
                best = gladly, going
        return Way(best[1].task, best[1].peer, job, held.queue) if best is not None else None


def _can_park(going: Going[R]) -> bool:
    task, job = going.task, going.job
    # A job that may have killed a worker runs alone, and to its end.
    stays = task.parking or task.abandoned or task.ends_soon or job.alone
    return job.task is task and task.resumable and not stays


def _can_go_there(held: _HeldBack[R], job: Job[R], peer: Peer[R]) -> bool:
    if peer.generation not in held.generations or not peer.takes_tasks:
        return False
    if peer.incarnation in job.avoid or not can_take(peer, job):
        return False
    if peer.gathers and len(peer.denoises) > 1:
        # Others would go on there, of which it may share no forward. To park all of them brought in time 0.53 where
        # 0.67 were without: what shared forwards goes on apart, and fewer steps are made a second.
        return False
    # Behind whatever is on its way there it would wait.
    return peer.load <= 0 and peer.free_slots >= peer.needs[Stage.DENOISE]
