"""Which job is next, and which peer gets it.

Order: a later stage before an earlier one, so that a job half done is finished before a new one is begun; within one
as the policy says (`ordering`), which may also have a job that runs give way to one that waits (`giving_way`).

Where: a job is decoded by the peer that denoised it, if that has the role, and denoised by the one that encoded it if
no other is less busy (nothing is transferred). Else it goes to the least loaded peer of its generation, equals taking
turns, and of equals to the one that has a copy of its input, or its checkpoint. A job that has no input yet may begin
in any generation, or in one that it is to begin in (`shares`).

Adapters: a job goes only where denoisers offer all that it names, and waits where none does, as for a role that nobody
has: one that does may come back, and the deadline bounds the wait. Of peers with the same load the one with the fewest
to load gets it, among the first so many (`compared`). That is all: a peer with less load wins whatever is loaded, so no
job waits for an adapter's peer while another could start it, and none is passed over for one whose adapters are loaded.

Denoisers that share forwards among jobs are filled by batches (`places`). Where none is idle for the first in order,
later ones may still join theirs, but no longer than it would take itself.

Jobs wait in lanes, one for each set of peers that could take them: what holds back the first of a lane holds back all
of it. Peers are indexed by what they could take. After an event only those lanes are looked at that got a job or whose
peers changed, so that an event costs what it changes and neither the length of the queue nor the size of the fleet.
Jobs whose adapters only some denoisers of a generation offer have lanes of their own as long as that lasts, and until
then each event costs as many looks as there are such sets of adapters.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Generic

from diffusion_router.core.batches import Batches
from diffusion_router.core.behind import Behind
from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import R, Stage
from diffusion_router.core.generations import Generations
from diffusion_router.core.giving_way import GivingWay
from diffusion_router.core.moving import moves
from diffusion_router.core.offers import NONE, Names, can_take, needs
from diffusion_router.core.ordering import First, Ordering, Queue
from diffusion_router.core.passed_by import PassedBy
from diffusion_router.core.peer import Peer
from diffusion_router.core.places import NO_MARK, Places, mark
from diffusion_router.core.state import Job, Task

# Whom jobs compete for: peers of this generation ("": any, before their first stage), and this incarnation first, which
# holds their input and has the role ("" if it has not). It alone decodes.
Group = tuple[str, str]
# Peers that the jobs of a lane had better not go to.
Avoid = frozenset[str]
# And adapters that not all peers of the group can denoise with, and the mark of its batch, where that counts.
Kind = tuple[Avoid, Names, int]

_ANYWHERE: Final[Group] = ("", "")


class Scheduler(Generic[R]):
    """Ready jobs, and the peers that could take them. `jobs` and `peers` are the book's own and only read here."""

    def __init__(
        self,
        jobs: Mapping[str, Job[R]],
        peers: Mapping[str, Peer[R]],
        ordering: Ordering[R],
        estimates: Estimates,
        batches: Batches,
        *,
        compared: int = 1,
    ) -> None:
        """compared: as in Policy."""
        self._jobs = jobs
        self._peers = peers
        self._ordering = ordering
        self._estimates = estimates
        self._batches = batches
        self.generations: Generations[R] = Generations(peers)
        self._lanes: dict[Stage, dict[Group, dict[Kind, Queue[R]]]] = {stage: {} for stage in Stage}
        self._touched: dict[Stage, set[Group]] = {stage: set() for stage in Stage}
        self._places: Places[R] = Places(batches, compared=compared)
        self.behind: Behind[R] = Behind(jobs, peers)
        # Peers that have changed since they were entered into these indexes.
        self._changed: dict[str, Peer[R]] = {}
        self.giving_way: GivingWay[R] = GivingWay(jobs, ordering)
        self._passed_by: PassedBy[R] = PassedBy(jobs, estimates)
        self._now = 0.0

    # ------------------------------------------------------------ what changes

    def push(self, job: Job[R]) -> None:
        """To be called when the job may start: its stage, its input or what it avoids is another."""
        group = self._group(job)
        lanes = self._lanes[job.stage].setdefault(group, {})
        kind = self._kind(job)
        lane = lanes.get(kind)
        if lane is None:
            lane = lanes[kind] = self._ordering.queue(job.stage)
        self._ordering.weigh(job)
        lane.push(job)
        self._touched[job.stage].add(group)

    def seat(self, peer: Peer[R]) -> None:
        """To be called when the peer comes or goes, or its state or what it offers is another."""
        known = peer.incarnation in self._peers
        turned, moved = self.generations.seat(peer)
        if moved:
            self._relane()
        for stage, groups in self._lanes.items():
            # Who is held back by what it avoids may have no other choice now; whose roles are gone starts over.
            anybody = turned or stage is Stage.DENOISE
            self._touched[stage].update(group for group in groups if anybody or not group[1])
            if not known:
                groups.pop((peer.generation, peer.incarnation), None)
        for output in peer.outputs.values() if known else ():
            for job_id in sorted(output.listed_by):
                job = self._jobs.get(job_id)
                if job is not None and job.input is output and not job.state.has_task:
                    self.push(job)
        self.changed(peer)
        self.behind.seat(peer)

    def changed(self, peer: Peer[R]) -> None:
        """To be called when the peer owns more tasks or fewer, or its pool has other room."""
        self._changed[peer.incarnation] = peer
        self.behind.changed(peer)

    def _refresh(self) -> None:
        while self._changed:
            self._enter(self._changed.popitem()[1])

    def has_idle(self, stage: Stage, generation: str) -> bool:
        """Whether a peer of this generation could start a task of this stage at once."""
        self._refresh()
        return self._places.has_idle(stage, generation)

    def _relane(self) -> None:
        """A generation has become complete, or is so no more, or offers other adapters: who waits to begin in it may do
        so elsewhere or not, and not all of its peers may be able to take whom all could."""
        moved = [
            job
            for stage, groups in self._lanes.items()
            for group, lanes in groups.items()
            for kind, lane in lanes.items()
            for job_id in lane
            if (job := self._jobs.get(job_id)) is not None
            and job.stage is stage
            and ((job.begins_in and self._group(job) != group) or self._kind(job) != kind)
        ]
        for job in moved:
            self.push(job)

    def _enter(self, peer: Peer[R]) -> None:
        known = peer.takes_tasks and peer.incarnation in self._peers
        credit = known and peer.may_wait(early=self._ordering.commits_early)
        self._places.enter(peer, takes_tasks=known, credit=credit)
        for stage in peer.stages if credit else ():
            if self._lanes[stage]:
                self._touch(stage, peer)

    def _touch(self, stage: Stage, peer: Peer[R]) -> None:
        groups, touched = self._lanes[stage], self._touched[stage]
        if stage is Stage.DENOISE:
            # Who need not pull at one peer may go to any other.
            self._touch_all(peer.generation)
            return
        for group in ((peer.generation, peer.incarnation), (peer.generation, ""), _ANYWHERE):
            if group in groups:
                touched.add(group)

    def _touch_all(self, generation: str) -> None:
        groups = self._lanes[Stage.DENOISE]
        self._touched[Stage.DENOISE].update(group for group in groups if group[0] == generation)

    # ------------------------------------------------------------ what follows

    def settled(self) -> bool:
        """Whether nothing has changed since all lanes concerned were looked at."""
        if self._passed_by.impatient:
            for generation in self._passed_by.relieved(self._now):
                # Others may join again.
                self._touch_all(generation)
        if self._changed or self._places.unspread or not self.giving_way.settled:
            return False
        return not any(self._touched.values())

    def assign(self, stage: Stage, now: float, start: Callable[[Job[R], Peer[R], float], None]) -> list[Job[R]]:
        """Starts what can be started; returns the jobs whose input no peer that stays can use (they start over).

        start: of a job on a peer, with its task's order among those that wait there.
        """
        self._now = now
        self._refresh()
        if not self._touched[stage]:
            return []
        stranded: list[Job[R]] = []
        touched = self._look_at_all_that_gather() if stage is Stage.DENOISE else self._touched[stage]
        places = [(group, kind) for group in sorted(touched) for kind in self._lanes[stage].get(group, ())]
        self._touched[stage] = set()
        heads, epoch = self._heads(stage, places), self._ordering.epoch(stage)
        while heads:
            first, number, group, kind = heapq.heappop(heads)
            lane = self._lanes[stage][group][kind]
            if (anew := lane.first(now)) != first:
                # Meanwhile another has come into this lane, or keys are others.
                if anew is not None:
                    heapq.heappush(heads, (anew, number, group, kind))
                continue
            if not self._settle(stage, group, kind, first, start, stranded):
                continue
            if not lane or (following := self._first(stage, group, kind)) is None:
                self._forget(stage, group, kind)
            elif self._worth_a_look(stage, group, kind):
                heapq.heappush(heads, (following, number, group, kind))
            else:
                self._holds_back(stage, group, kind, following)
            if epoch != self._ordering.epoch(stage):
                epoch = self._ordering.epoch(stage)
                heads = self._heads(stage, [head[2:] for head in heads])
        return stranded

    def _look_at_all_that_gather(self) -> set[Group]:
        """Where forwards are shared, who comes first in one lane counts for the others of its generation."""
        touched = self._touched[Stage.DENOISE]
        gathering = {generation for generation, _ in touched if self.generations.gathers(generation)}
        self._passed_by.look_anew(generation for generation, _ in touched)
        return touched.union(group for group in self._lanes[Stage.DENOISE] if group[0] in gathering)

    def _heads(self, stage: Stage, places: Iterable[tuple[Group, Kind]]) -> list[tuple[First, int, Group, Kind]]:
        """The first of each lane of which one could start, or would be stranded; as a heap."""
        heads = []
        for number, (group, kind) in enumerate(places):
            first = self._first(stage, group, kind)
            if first is None:
                self._forget(stage, group, kind)
            elif self._worth_a_look(stage, group, kind):
                heads.append((first, number, group, kind))
            else:
                self._holds_back(stage, group, kind, first)
        heapq.heapify(heads)
        return heads

    def _first(self, stage: Stage, group: Group, kind: Kind) -> First | None:
        """Of a lane. Who waits there no more is passed over where the first one counts though it can't start."""
        lane = self._lanes[stage][group][kind]
        while (first := lane.first(self._now)) is not None and kind[2]:
            job = self._jobs.get(first[1])
            if job is not None and self._is_here(job, stage, group, kind[0]):
                return first
            lane.discard(first[1])
        return first

    def _is_here(self, job: Job[R], stage: Stage, group: Group, avoid: Avoid) -> bool:
        return job.ready(stage, self._now) and job.avoid == avoid and self._group(job) == group

    def _settle(
        self,
        stage: Stage,
        group: Group,
        kind: Kind,
        first: First,
        start: Callable[[Job[R], Peer[R], float], None],
        stranded: list[Job[R]],
    ) -> bool:
        """Whether the first job of the lane waits there no more: it is started, stranded, or waits elsewhere."""
        lane = self._lanes[stage][group][kind]
        job = self._jobs.get(first[1])
        if job is not None and self._is_here(job, stage, group, kind[0]):
            if self._kind(job) != kind:
                # What denoisers offer is another since it came here.
                self.push(job)
            elif self.generations.is_stranded(group[0], stage, kind[1]):
                stranded.append(job)
            elif (peer := self._choose(job, kind[1], joins=self._passed_by.may_be(group[0], first))) is not None:
                # Who joins others before it is his turn takes it from nobody.
                in_turn = not self._passed_by.is_one_before(group[0], first)
                start(job, peer, self._ordering.started(job, lane, in_turn=in_turn))
                self._refresh()
            else:
                self._holds_back(stage, group, kind, first)
                return False
        lane.discard(first[1])
        return True

    def _forget(self, stage: Stage, group: Group, kind: Kind) -> None:
        groups = self._lanes[stage]
        del groups[group][kind]
        if not groups[group]:
            del groups[group]
        if stage is Stage.DENOISE:
            self.giving_way.forget((group, kind))

    # ------------------------------------------------------------ who gives way

    def _holds_back(self, stage: Stage, group: Group, kind: Kind, first: First) -> None:
        """This one is first in its lane, and no peer has a place for it."""
        job = self._jobs.get(first[1])
        if job is not None and stage is Stage.DENOISE:
            if kind[2]:
                self._passed_by.add(group[0], first, self._now)
            generations = (group[0],) if group[0] else tuple(self.generations.complete)
            self.giving_way.hold_back((group, kind), self._lanes[stage][group][kind], generations)

    def make_way(self, park: Callable[[Task[R]], None], start: Callable[[Job[R], Peer[R], float], None]) -> None:
        """Has denoisings parked for jobs that are more urgent, which get their places."""
        for way in self.giving_way.ways(self._now):
            park(way.task)
            start(way.job, way.peer, self._ordering.started(way.job, way.queue, in_turn=False))
            way.queue.discard(way.job.id)
            self._touched[Stage.DENOISE].add(self._group(way.job))

    def spread(self, park: Callable[[Task[R]], None]) -> None:
        """Has denoisings parked that go on faster on peers for which nobody waits."""
        if not self._places.unspread:
            return
        for task in moves(self._jobs, self._places, self._ordering, self._estimates, self._batches):
            park(task)

    def to_ask_back(self) -> Iterator[Task[R]]:
        """Tasks that wait on a busy peer while another could start them at once.

        A peer holds one task more than it runs, so that its input is pulled meanwhile; which peer will be free first
        is only known later.
        """
        if self.behind.look():
            for place, idle in self._places.idle(self.behind.anywhere):
                yield from self.behind.longest(place, idle)

    # ------------------------------------------------------------ rules

    def _kind(self, job: Job[R]) -> Kind:
        marked = NO_MARK
        if job.stage is Stage.DENOISE and job.input is not None and self.generations.gathers(job.input.generation):
            marked = mark(job.company)
        if not (apart := needs(job)):
            return (job.avoid, NONE, marked)
        common = all(self.generations.offers.by_all(generation, apart) for generation in self.generations.of(job))
        return (job.avoid, NONE if common else apart, marked)

    def _group(self, job: Job[R]) -> Group:
        source = job.input
        if source is None:
            return (self.generations.begins_in(job), "")
        return (source.generation, source.incarnation if self._is_bound(job) else "")

    def _is_bound(self, job: Job[R]) -> bool:
        """Whether a peer that need not pull its input comes first."""
        return (holder := self._holder(job)) is not None and holder.incarnation not in job.avoid

    def _holder(self, job: Job[R]) -> Peer[R] | None:
        """The peer that made its input and could go on with it. Not of a checkpoint: who was to give way would wait for
        the place that he gave. Nor a denoiser that keeps what encoders made that have left."""
        source = job.input
        holder = self._peers.get(source.incarnation) if source is not None and source.parked is None else None
        if holder is None or source is None or source.stage not in holder.stages:
            return None
        able = job.stage in holder.stages and holder.takes_tasks and can_take(holder, job)
        return holder if able else None

    def _choose(self, job: Job[R], apart: Names, *, joins: bool) -> Peer[R] | None:
        """The peer that should run it, if any can just now. apart, joins: as in `Places.choose`.

        One on which a task of this job failed is taken again only where there is no other.
        """
        able = self._able_holder(job, joins=joins)
        first = able if able is not None and able.incarnation not in job.avoid else None
        if first is not None and (first.load < 0 and not (first.gathers and first.denoises)):
            return first
        if job.stage is Stage.DECODE and self._is_bound(job):
            # What is denoised is the largest of what is pulled, and decoding the shortest that waits.
            return first
        generations = self.generations.of(job)
        if apart and job.input is None:
            by_any = self.generations.offers.by_any
            generations = [generation for generation in generations if by_any(generation, apart)]
        shun = job.avoid if job.avoid and self.generations.has_others(job, generations) else ()
        peer = self._places.choose(job, generations, shun, apart, joins=joins)
        if first is not None and (peer is None or first.load <= peer.load):
            return first
        return peer if peer is not None or shun else able

    def _able_holder(self, job: Job[R], *, joins: bool) -> Peer[R] | None:
        """The peer that holds its input, if it can go on with it now."""
        holder = self._holder(job)
        if holder is None or not holder.may_wait(early=self._ordering.commits_early):
            return None
        # It need not pull.
        fits = holder.free_slots >= holder.needs[job.stage] - 1
        return holder if fits and self._places.accepts(holder, job, joins=joins) else None

    def _worth_a_look(self, stage: Stage, group: Group, kind: Kind) -> bool:
        """False only if none of the lane's jobs could start or would be stranded."""
        generation, bound = group
        avoid, apart, marked = kind
        if bound or avoid or apart:
            return True
        if generation:
            return self._places.is_open(stage, generation, marked) or self.generations.is_stranded(
                generation, stage, NONE
            )
        return any(self._places.is_open(stage, complete, marked) for complete in self.generations.complete)
