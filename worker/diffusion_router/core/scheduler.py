"""Which job is next, and which peer gets it.

Order: a later stage before an earlier one, so that a job half done is finished before a new one is begun; within one
as the policy says (`ordering`), which may also have a job that runs give way to one that waits (`giving_way`). A job
stays on the peer that holds its input if that peer has the next role too (nothing is transferred); else it goes to the
least loaded peer of the same generation, equals taking turns. A checkpoint binds nobody, and of equals the one that has
it is taken. A job that has no input yet may begin in any generation, or in one that it is to begin in (`shares`).

Adapters: a job goes only where denoisers offer all that it names, and waits where none does, as for a role that nobody
has: one that does may come back, and the deadline bounds the wait. Of peers with the same load the one with the fewest
to load gets it, among the first so many (`compared`). That is all: a peer with less load wins whatever is loaded, so no
job waits for an adapter's peer while another could start it, and none is passed over for one whose adapters are loaded.

Jobs wait in lanes, one for each set of peers that could take them: what holds back the first of a lane holds back all
of it. Peers are indexed by what they could take. After an event only those lanes are looked at that got a job or whose
peers changed, so that an event costs what it changes and neither the length of the queue nor the size of the fleet.
Jobs whose adapters only some denoisers of a generation offer have lanes of their own as long as that lasts, and until
then each event costs as many looks as there are such sets of adapters.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, Generic

from diffusion_router.core.behind import Behind, Place
from diffusion_router.core.events import R, Stage
from diffusion_router.core.giving_way import GivingWay
from diffusion_router.core.offers import NONE, Names, Offers, can_take, needs
from diffusion_router.core.ordering import First, Ordering, Queue
from diffusion_router.core.state import Job, Peer, Task

# Whom jobs compete for: peers of this generation ("": any, before their first stage), or this incarnation alone, which
# holds their input and has the role ("" if it has not).
Group = tuple[str, str]
# Peers that the jobs of a lane had better not go to.
Avoid = frozenset[str]
# And adapters that not all peers of the group can denoise with.
Kind = tuple[Avoid, Names]

_ANYWHERE: Final[Group] = ("", "")


class Scheduler(Generic[R]):
    """Ready jobs, and the peers that could take them. `jobs` and `peers` are the book's own and only read here."""

    def __init__(
        self, jobs: Mapping[str, Job[R]], peers: Mapping[str, Peer[R]], ordering: Ordering[R], *, compared: int = 1
    ) -> None:
        """compared: as in Policy."""
        self._jobs = jobs
        self._peers = peers
        self._ordering = ordering
        self._compared = compared
        self.offers: Offers[R] = Offers()
        self._lanes: dict[Stage, dict[Group, dict[Kind, Queue[R]]]] = {stage: {} for stage in Stage}
        self._touched: dict[Stage, set[Group]] = {stage: set() for stage in Stage}
        # Peers with a credit and room, by load (tasks beyond capacity), the longest unchanged first; where each is.
        self._open: dict[Place, dict[int, dict[str, Peer[R]]]] = defaultdict(dict)
        self._loads: dict[str, dict[Stage, int]] = {}
        # How many of them have an idle place.
        self._idle: Counter[Place] = Counter()
        self.behind: Behind[R] = Behind(jobs, peers)
        # Peers that have changed since they were entered into these indexes.
        self._changed: dict[str, Peer[R]] = {}
        # Peers that take tasks, or may again, by stage and generation, in order; generations that have every role.
        self._staying: dict[Stage, dict[str, dict[str, None]]] = {stage: {} for stage in Stage}
        self._complete: list[str] = []
        self.giving_way: GivingWay[R] = GivingWay(jobs, ordering)
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
        stays = known and not peer.draining
        turned = False
        for stage in peer.stages:
            of_generation = self._staying[stage].setdefault(peer.generation, {})
            turned |= stays and not of_generation
            if stays:
                of_generation[peer.incarnation] = None
            else:
                of_generation.pop(peer.incarnation, None)
            if not of_generation:
                del self._staying[stage][peer.generation]
                turned = True
        if turned:
            self._complete = [g for g in self._staying[Stage.ENCODE] if self._can_end(g, Stage.ENCODE)]
        if self.offers.seat(peer, stays=stays) or turned:
            self._relane()
        for stage, groups in self._lanes.items():
            # Who is held back by what it avoids may have no other choice now; whose roles are gone starts over.
            self._touched[stage].update(group for group in groups if turned or not group[1])
            if not known:
                groups.pop((peer.generation, peer.incarnation), None)
        for output in peer.outputs.values() if known else ():
            for job_id in output.listed_by:
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

    def staying(self, stage: Stage, generation: str) -> Iterator[Peer[R]]:
        """Peers of a role that take tasks, or may again."""
        return (self._peers[incarnation] for incarnation in self._staying[stage].get(generation, ()))

    def has_others(self, job: Job[R], generations: Iterable[str]) -> bool:
        """Whether a peer takes tasks that could run the job's stage, and none of it has failed there."""
        able = (peer for generation in generations for peer in self.staying(job.stage, generation))
        return any(peer.takes_tasks and peer.incarnation not in job.avoid and can_take(peer, job) for peer in able)

    def is_complete(self, generation: str) -> bool:
        """Whether a job could begin and end in it."""
        return generation in self._complete

    def has_idle(self, stage: Stage, generation: str) -> bool:
        """Whether a peer of this generation could start a task of this stage at once."""
        self._refresh()
        return self._idle[stage, generation] > 0

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
            and ((job.begins_in and self._group(job) != group) or (needs(job) and self._kind(job) != kind))
        ]
        for job in moved:
            self.push(job)

    def _enter(self, peer: Peer[R]) -> None:
        load = peer.load
        early = self._ordering.commits_early
        credit = peer.takes_tasks and peer.incarnation in self._peers and peer.may_wait(early=early)
        free = peer.free_slots
        loads = self._loads.setdefault(peer.incarnation, {})
        for stage, need in peer.needs.items():
            before = loads.get(stage)
            now = load if credit and free >= need else None
            if now != before:
                self._move(stage, peer, before, now)
            if credit and self._lanes[stage]:
                self._touch(stage, peer)
        if not loads:
            del self._loads[peer.incarnation]

    def _touch(self, stage: Stage, peer: Peer[R]) -> None:
        groups, touched = self._lanes[stage], self._touched[stage]
        for group in ((peer.generation, peer.incarnation), (peer.generation, ""), _ANYWHERE):
            if group in groups:
                touched.add(group)

    def _move(self, stage: Stage, peer: Peer[R], before: int | None, now: int | None) -> None:
        place = (stage, peer.generation)
        by_load = self._open[place]
        if before is not None:
            del by_load[before][peer.incarnation]
            self._idle[place] -= before < 0
            if not by_load[before]:
                del by_load[before]
        if now is None:
            del self._loads[peer.incarnation][stage]
        else:
            self._loads[peer.incarnation][stage] = now
            self._idle[place] += now < 0
            by_load.setdefault(now, {})[peer.incarnation] = peer
        if not by_load:
            del self._open[place], self._idle[place]

    # ------------------------------------------------------------ what follows

    def settled(self) -> bool:
        """Whether nothing has changed since all lanes concerned were looked at."""
        return self.giving_way.settled and not (self._changed or any(self._touched.values()))

    def assign(self, stage: Stage, now: float, start: Callable[[Job[R], Peer[R], float], None]) -> list[Job[R]]:
        """Starts what can be started; returns the jobs whose input no peer that stays can use (they start over).

        start: of a job on a peer, with its task's order among those that wait there.
        """
        self._now = now
        self._refresh()
        if not self._touched[stage]:
            return []
        stranded: list[Job[R]] = []
        places = [(group, kind) for group in self._touched[stage] for kind in self._lanes[stage].get(group, ())]
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
            if not self._settle(stage, group, kind, first[1], start, stranded):
                continue
            if not lane:
                self._forget(stage, group, kind)
            elif (following := lane.first(now)) is not None and self._worth_a_look(stage, group, kind):
                heapq.heappush(heads, (following, number, group, kind))
            if epoch != self._ordering.epoch(stage):
                epoch = self._ordering.epoch(stage)
                heads = self._heads(stage, [head[2:] for head in heads])
        return stranded

    def _heads(self, stage: Stage, places: Iterable[tuple[Group, Kind]]) -> list[tuple[First, int, Group, Kind]]:
        """The first of each lane of which one could start, or would be stranded; as a heap."""
        heads = []
        for number, (group, kind) in enumerate(places):
            lane = self._lanes[stage][group][kind]
            first = lane.first(self._now)
            if first is None:
                self._forget(stage, group, kind)
            elif self._worth_a_look(stage, group, kind):
                heads.append((first, number, group, kind))
            else:
                self._holds_back(stage, group, kind, self._jobs.get(first[1]))
        heapq.heapify(heads)
        return heads

    def _settle(
        self,
        stage: Stage,
        group: Group,
        kind: Kind,
        job_id: str,
        start: Callable[[Job[R], Peer[R], float], None],
        stranded: list[Job[R]],
    ) -> bool:
        """Whether the first job of the lane waits there no more: it is started, stranded, or waits elsewhere."""
        lane = self._lanes[stage][group][kind]
        job = self._jobs.get(job_id)
        if job is not None and job.ready(stage, self._now) and job.avoid == kind[0] and self._group(job) == group:
            if self._kind(job) != kind:
                # What denoisers offer is another since it came here.
                self.push(job)
            elif self.is_stranded(group[0], stage, kind[1]):
                stranded.append(job)
            elif (peer := self._choose(job, kind[1])) is not None:
                start(job, peer, self._ordering.started(job, lane, in_turn=True))
                self._refresh()
            else:
                self._holds_back(stage, group, kind, job)
                return False
        lane.discard(job_id)
        return True

    def _forget(self, stage: Stage, group: Group, kind: Kind) -> None:
        groups = self._lanes[stage]
        del groups[group][kind]
        if not groups[group]:
            del groups[group]
        if stage is Stage.DENOISE:
            self.giving_way.forget((group, kind))

    # ------------------------------------------------------------ who gives way

    def _holds_back(self, stage: Stage, group: Group, kind: Kind, job: Job[R] | None) -> None:
        """This one is first in its lane, and no peer has a place for it."""
        if job is not None and stage is Stage.DENOISE:
            generations = (group[0],) if group[0] else tuple(self._complete)
            self.giving_way.hold_back((group, kind), self._lanes[stage][group][kind], generations, group[1])

    def make_way(self, park: Callable[[Task[R]], None], start: Callable[[Job[R], Peer[R], float], None]) -> None:
        """Has denoisings parked for jobs that are more urgent, which get their places."""
        for way in self.giving_way.ways(self._now):
            park(way.task)
            start(way.job, way.peer, self._ordering.started(way.job, way.queue, in_turn=False))
            way.queue.discard(way.job.id)
            self._touched[Stage.DENOISE].add(self._group(way.job))

    def to_ask_back(self) -> Iterator[Task[R]]:
        """Tasks that wait on a busy peer while another could start them at once.

        A peer holds one task more than it runs, so that its input is pulled meanwhile; which peer will be free first
        is only known later.
        """
        for place in [place for place, idle in self._idle.items() if idle]:
            by_load = ((load, peers) for load, peers in self._open[place].items() if load < 0)
            # A place that is being freed has been freed for somebody.
            idle = {peer: -load for load, peers in by_load for peer in peers.values() if not peer.parking}
            yield from self.behind.longest(place, idle)

    # ------------------------------------------------------------ rules

    def _kind(self, job: Job[R]) -> Kind:
        if not (apart := needs(job)):
            return (job.avoid, NONE)
        common = all(self.offers.by_all(generation, apart) for generation in self._generations(job))
        return (job.avoid, NONE if common else apart)

    def _generations(self, job: Job[R]) -> list[str]:
        """In which it can be started."""
        if job.input is not None:
            return [job.input.generation]
        begins_in = self._begins_in(job)
        return [begins_in] if begins_in else self._complete

    def _group(self, job: Job[R]) -> Group:
        source = job.input
        if source is None:
            return (self._begins_in(job), "")
        bound = self._holder(job) is not None and source.incarnation not in job.avoid
        return (source.generation, source.incarnation if bound else "")

    def _begins_in(self, job: Job[R]) -> str:
        """Empty: in any generation, since none is said, or nobody could end it in that one."""
        own = job.begins_in
        return own if own in self._complete and self.offers.by_any(own, job.adapters) else ""

    def _holder(self, job: Job[R]) -> Peer[R] | None:
        """The peer that holds its input and is to go on with it: it takes tasks of the job's stage. A checkpoint binds
        nobody: who was to give way would wait for the place that he gave. Nor does what a denoiser keeps of encoders
        that have left, which many may go on with."""
        source = job.input
        holder = self._peers.get(source.incarnation) if source is not None and source.parked is None else None
        if holder is None or source is None or source.stage not in holder.stages:
            return None
        able = job.stage in holder.stages and holder.takes_tasks and can_take(holder, job)
        return holder if able else None

    def _choose(self, job: Job[R], apart: Names) -> Peer[R] | None:
        """The peer that should run it, if any can just now. apart: adapters that not all of its peers offer.

        One on which a task of this job failed is taken again only where there is no other.
        """
        source, stage = job.input, job.stage
        holder = self._holder(job)
        able: Peer[R] | None = None
        if holder is not None:
            # It need not pull.
            waits = holder.may_wait(early=self._ordering.commits_early)
            able = holder if waits and holder.free_slots >= holder.needs[stage] - 1 else None
            if holder.incarnation not in job.avoid:
                return able
        generations = self._generations(job)
        if apart and source is None:
            generations = [generation for generation in generations if self.offers.by_any(generation, apart)]
        shun = job.avoid if job.avoid and self.has_others(job, generations) else ()
        open_ = [by_load for generation in generations if (by_load := self._open.get((stage, generation)))]
        for load in sorted({load for by_load in open_ for load in by_load}):
            for by_load in open_:
                keeper = by_load.get(load, {}).get(source.incarnation) if source is not None else None
                if keeper is not None and keeper.incarnation not in shun and can_take(keeper, job):
                    # It has the checkpoint, or copied the input.
                    return keeper
            equals = (
                peer
                for by_load in open_
                for incarnation, peer in by_load.get(load, {}).items()
                if incarnation not in shun and not (apart and not can_take(peer, job))
            )
            if (peer := self._fewest_loads(equals, job)) is not None:
                return peer
        return None if shun else able

    def _fewest_loads(self, equals: Iterator[Peer[R]], job: Job[R]) -> Peer[R] | None:
        """Of peers that may as well take it, the first that has the fewest adapters to load."""
        adapters = needs(job)
        if not adapters:
            return next(equals, None)
        return min(islice(equals, self._compared), key=lambda peer: peer.loads_for(adapters), default=None)

    def _can_end(self, generation: str, stage: Stage) -> bool:
        """Whether a job of this generation can go on from `stage` to its end; a role that nobody has may yet come."""
        return all(generation in self._staying[later] or not self._staying[later] for later in Stage if later >= stage)

    def is_stranded(self, generation: str, stage: Stage, apart: Names) -> bool:
        """Whether a job with an input of this generation ends only if it starts over with another."""
        return (
            bool(generation)
            and any(other != generation and self.offers.by_any(other, apart) for other in self._complete)
            and not (self._can_end(generation, stage) and self.offers.by_any(generation, apart))
        )

    def _worth_a_look(self, stage: Stage, group: Group, kind: Kind) -> bool:
        """False only if none of the lane's jobs could start or would be stranded."""
        generation, bound = group
        if bound or any(kind):
            return True
        if generation:
            return (stage, generation) in self._open or self.is_stranded(generation, stage, NONE)
        return any((stage, complete) in self._open for complete in self._complete)
