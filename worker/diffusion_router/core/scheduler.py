"""Which job is next, and which peer gets it.

Order: a later stage before an earlier one, then the oldest job first, so that a job half done is finished before a new
one is begun. A job stays on the peer that holds its input if that peer has the next role too (nothing is transferred);
else it goes to the least loaded peer of the same generation, equals taking turns.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from diffusion_router.core.events import Stage
from diffusion_router.core.state import Job, Output, Peer, Task


@dataclass(slots=True)
class ReadyQueue:
    """Jobs that could start one stage, oldest first. Entries that no longer hold are passed over when met."""

    stage: Stage
    _heap: list[tuple[int, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def push(self, job: Job) -> None:
        heapq.heappush(self._heap, (job.seq, job.id))

    def pop_each(self, jobs: Mapping[str, Job], now: float) -> Iterator[Job]:
        while self._heap:
            job = jobs.get(heapq.heappop(self._heap)[1])
            if job is not None and is_ready(job, self.stage, now):
                yield job


def is_ready(job: Job, stage: Stage, now: float) -> bool:
    return not job.status.ended and job.task is None and job.stage is stage and job.not_before <= now


def choose_peer(job: Job, peers: Collection[Peer], fleet: Mapping[str, Peer]) -> Peer | None:
    """The one of `peers` (those of the `fleet` that have a credit for the job's stage) that should run it, if any can.

    A peer on which the model raised for this job is taken again only where there is no other.
    """
    source = job.input
    holder = fleet.get(source.incarnation) if source is not None else None
    if holder is not None and holder.takes_tasks and job.stage in holder.stages and holder.incarnation not in job.avoid:
        return holder if holder in peers and holder.has_room(job.stage, source) else None
    others = any(
        peer.takes_tasks and job.stage in peer.stages and peer.incarnation not in job.avoid for peer in fleet.values()
    )
    fitting = [
        peer
        for peer in peers
        if peer.has_room(job.stage, source)
        and (source is None or peer.generation == source.generation)
        and not (others and peer.incarnation in job.avoid)
    ]
    return min(fitting, key=lambda peer: (len(peer.tasks) - peer.capacity, peer.last_used), default=None)


def is_stranded(source: Output | None, stage: Stage, peers: Iterable[Peer]) -> bool:
    """Whether no peer of the input's generation has the role any more, while another generation has."""
    generations = {peer.generation for peer in peers if stage in peer.stages}
    return source is not None and bool(generations) and source.generation not in generations


def tasks_to_revoke(peers: Collection[Peer]) -> Iterator[Task]:
    """Tasks that wait on a busy peer while another could start them at once.

    A peer holds one task more than it runs, so that its input is pulled meanwhile; which peer will be free first is
    only known later.
    """
    for idle in peers:
        if not idle.idle:
            continue
        waiting = [
            task
            for peer in peers
            if len(peer.tasks) > peer.capacity and peer.generation == idle.generation
            for task in peer.tasks.values()
            if task.stage in idle.stages
            and not (task.started or task.revoked or task.abandoned)
            and (task.input is None or task.input.incarnation != peer.incarnation)
            and idle.has_room(task.stage, task.input)
        ]
        if waiting:
            task = min(waiting, key=lambda task: (-task.stage, task.sent_at))
            task.revoked = True
            yield task
