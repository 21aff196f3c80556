"""Which job is next, and which peer gets it.

Order: a later stage before an earlier one, then the oldest job first, so that a job half done is finished before a new
one is begun. A job stays on the peer that holds its input if that peer has the next role too (nothing is transferred);
else it goes to the least loaded peer of the same generation, equals taking turns.

Jobs wait in lanes, one for each set of peers that could take them, and peers are indexed by what they could take, so
that an event costs what it changes and not the length of the queue times the size of the fleet.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from diffusion_router.core.events import Stage
from diffusion_router.core.state import Job, Output, Peer, Task

# Who could take a job: peers of this generation ("" before its first stage), and first of all this incarnation, which
# holds its input and has the role ("" if it has not).
LaneKey = tuple[str, str]


@dataclass(slots=True)
class Lane:
    """Jobs that the same peers could start, oldest first. Entries that no longer hold are passed over when met."""

    heap: list[tuple[int, str]] = field(default_factory=list)
    entries: set[str] = field(default_factory=set)

    def push(self, job: Job) -> None:
        if job.id not in self.entries:
            self.entries.add(job.id)
            heapq.heappush(self.heap, (job.seq, job.id))

    def pop(self) -> str:
        job_id = heapq.heappop(self.heap)[1]
        self.entries.discard(job_id)
        return job_id


class Scheduler:
    """Ready jobs, and the peers that could take them. `jobs` and `peers` are the core's own and only read here."""

    def __init__(self, jobs: Mapping[str, Job], peers: Mapping[str, Peer]) -> None:
        self._jobs = jobs
        self._peers = peers
        self._lanes: dict[Stage, dict[LaneKey, Lane]] = {stage: {} for stage in Stage}
        # By stage and generation: peers with a credit, by load, the longest unchanged first; peers with an idle place;
        # peers with a task that waits behind others.
        self._open: dict[tuple[Stage, str], dict[int, dict[str, Peer]]] = defaultdict(dict)
        self._idle: dict[tuple[Stage, str], dict[str, Peer]] = defaultdict(dict)
        self._overfull: dict[tuple[Stage, str], dict[str, Peer]] = defaultdict(dict)
        # Under which load a peer is in `_open`.
        self._loads: dict[str, int] = {}
        # Peers that take tasks, or may again, by stage and generation.
        self._staying: dict[Stage, dict[str, set[str]]] = {stage: {} for stage in Stage}

    # ------------------------------------------------------------ what changes

    def push(self, job: Job) -> None:
        self._lanes[job.stage].setdefault(self._lane_key(job), Lane()).push(job)

    def refresh(self, peer: Peer) -> None:
        """To be called after every change of what a peer owns, or of its state."""
        known = self._peers.get(peer.incarnation) is peer
        idle = known and peer.idle
        overfull = known and len(peer.tasks) > peer.capacity
        load = len(peer.tasks) - peer.capacity if known and peer.credits else None
        before = self._loads.pop(peer.incarnation, None)
        if load is not None:
            self._loads[peer.incarnation] = load
        for stage in peer.stages:
            key = (stage, peer.generation)
            if load != before:
                self._move(key, peer, before, load)
            for index, member in ((self._idle, idle), (self._overfull, overfull)):
                if member:
                    index[key][peer.incarnation] = peer
                elif key in index:
                    index[key].pop(peer.incarnation, None)
                    if not index[key]:
                        del index[key]
            staying = self._staying[stage].setdefault(peer.generation, set())
            if known and not peer.draining:
                staying.add(peer.incarnation)
            else:
                staying.discard(peer.incarnation)
                if not staying:
                    del self._staying[stage][peer.generation]

    def _move(self, key: tuple[Stage, str], peer: Peer, before: int | None, load: int | None) -> None:
        by_load = self._open[key]
        if before is not None:
            del by_load[before][peer.incarnation]
            if not by_load[before]:
                del by_load[before]
        if load is not None:
            by_load.setdefault(load, {})[peer.incarnation] = peer
        if not by_load:
            del self._open[key]

    # ------------------------------------------------------------ what follows

    def assign(self, stage: Stage, now: float, start: Callable[[Job, Peer], None]) -> list[Job]:
        """Starts what can be started; returns the jobs whose input no peer that stays can use (they start over)."""
        lanes = self._lanes[stage]
        if not lanes:
            return []
        heads = [(lane.heap[0][0], key) for key, lane in lanes.items() if lane.heap]
        heapq.heapify(heads)
        aside: list[Job] = []
        stranded: list[Job] = []
        while heads:
            _, key = heapq.heappop(heads)
            lane = lanes[key]
            job = self._jobs.get(lane.pop())
            if job is not None and is_ready(job, stage, now) and self._lane_key(job) == key:
                if self._is_stranded(job.input, stage):
                    stranded.append(job)
                elif (peer := self._choose(job)) is not None:
                    start(job, peer)
                else:
                    aside.append(job)
                    if not job.avoid:
                        continue  # what held this one back holds back all the later ones of its lane
            if lane.heap:
                heapq.heappush(heads, (lane.heap[0][0], key))
        for key in [key for key, lane in lanes.items() if not lane.heap]:
            del lanes[key]
        for job in aside:
            self.push(job)
        return stranded

    def revoke(self) -> Iterator[Task]:
        """Tasks that wait on a busy peer while another could start them at once.

        A peer holds one task more than it runs, so that its input is pulled meanwhile; which peer will be free first
        is only known later.
        """
        for key in [key for key in self._idle if key in self._overfull]:
            stage = key[0]
            waiting = [
                (task, peer)
                for peer in self._overfull[key].values()
                for task in peer.tasks.values()
                if task.stage is stage and task.waits
            ]
            # Tasks on their way back will take idle places too.
            places = sum(peer.capacity - len(peer.tasks) for peer in self._idle[key].values())
            places -= sum(task.revoked for task, _ in waiting)
            for task, peer in sorted(waiting, key=lambda pair: pair[0].sent_at):
                if places <= 0:
                    break
                if not task.revoked and self._could_move(task, peer, self._idle[key].values()):
                    task.revoked = True
                    places -= 1
                    yield task

    def _could_move(self, task: Task, peer: Peer, idle: Iterable[Peer]) -> bool:
        job = self._jobs.get(task.job_id)
        if job is None or (task.input is not None and task.input.incarnation == peer.incarnation):
            return False
        return any(other.incarnation not in job.avoid and other.has_room(task.stage, task.input) for other in idle)

    # ------------------------------------------------------------ rules

    def _lane_key(self, job: Job) -> LaneKey:
        source = job.input
        if source is None:
            return ("", "")
        holder = self._peers.get(source.incarnation)
        return (source.generation, source.incarnation if holder is not None and job.stage in holder.stages else "")

    def _choose(self, job: Job) -> Peer | None:
        """The peer that should run it, if any can just now.

        One on which a task of this job failed is taken again only where there is no other.
        """
        source, stage = job.input, job.stage
        holder = self._peers.get(source.incarnation) if source is not None else None
        if holder is not None and holder.takes_tasks and stage in holder.stages and holder.incarnation not in job.avoid:
            return holder if holder.credits and holder.has_room(stage, source) else None
        generations = [source.generation] if source is not None else self._complete_generations()
        shun = job.avoid if job.avoid and self._has_others(job, generations) else ()
        open_ = [by_load for generation in generations if (by_load := self._open.get((stage, generation)))]
        for load in sorted({load for by_load in open_ for load in by_load}):
            for by_load in open_:
                for peer in by_load.get(load, {}).values():
                    if peer.incarnation not in shun and peer.has_room(stage, source):
                        return peer
        return None

    def _has_others(self, job: Job, generations: Iterable[str]) -> bool:
        staying = self._staying[job.stage]
        candidates = (self._peers[name] for generation in generations for name in staying.get(generation, ()))
        return any(peer.takes_tasks and peer.incarnation not in job.avoid for peer in candidates)

    def _complete(self, generation: str, stage: Stage) -> bool:
        """Whether a job of this generation can go on from `stage` to its end; a role that nobody has may yet come."""
        return all(generation in self._staying[later] or not self._staying[later] for later in Stage if later >= stage)

    def _complete_generations(self) -> list[str]:
        return [generation for generation in self._staying[Stage.ENCODE] if self._complete(generation, Stage.ENCODE)]

    def _is_stranded(self, source: Output | None, stage: Stage) -> bool:
        return (
            source is not None
            and not self._complete(source.generation, stage)
            and any(generation != source.generation for generation in self._complete_generations())
        )


def is_ready(job: Job, stage: Stage, now: float) -> bool:
    return not job.status.ended and job.task is None and job.stage is stage and job.not_before <= now
