"""Peers that could be sent a task now, and which of them a job gets.

Peers are indexed by their load. One that shares forwards among denoisings is open to any job only while it denoises
nothing; then to jobs of the same batch, as far as that pays (`batches`). To another kind it would give no forward, and
only keep it from a peer that does: a worker computes its first task, and beside it what shares its forwards. So such a
job is sent only when all that is computed there is about to end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, TypeAlias
from zlib import crc32

from diffusion_router.core.batches import Batches
from diffusion_router.core.behind import Place
from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import Names, can_take, needs
from diffusion_router.core.peer import Peer
from diffusion_router.core.ranked import Ranked
from diffusion_router.core.state import Job

# Of a generation.
Batch: TypeAlias = tuple[str, str]

# Batches are told apart by so many marks: one more lane each.
_MARKS: Final = 64
# Of crowded peers, from which a denoising may be moved to one that is idle.
LOOKED_AT: Final = 16
NO_MARK: Final = 0


def mark(batch: str) -> int:
    """Jobs of one batch have one mark, and few others have it too."""
    return 1 + crc32(batch.encode()) % _MARKS


class Places(Generic[R]):
    def __init__(self, batches: Batches, *, compared: int) -> None:
        self._batches = batches
        self._compared = compared
        # By stage, peers with a credit and room: by generation and load (tasks beyond capacity).
        self._open: dict[Stage, Ranked[str, R]] = {stage: Ranked() for stage in Stage}
        # How many of them have an idle place.
        self._idle: Counter[Place] = Counter()
        # Peers that denoise jobs of one batch and have a place for more: by batch and how many they denoise.
        self._joinable: Ranked[Batch, R] = Ranked()
        self._marked: Counter[tuple[str, int]] = Counter()
        # Peers that denoise several: by generation and how many. Generations in which one came to denoise nothing.
        self._crowded: Ranked[str, R] = Ranked()
        self._emptied: dict[str, None] = {}

    # ------------------------------------------------------------ what changes

    def enter(self, peer: Peer[R], *, takes_tasks: bool, credit: bool) -> None:
        """To be called when the peer has other tasks or other room. takes_tasks: whether it ever may be sent one, and
        credit: now."""
        load, free = peer.load, peer.free_slots
        others = peer.denoises if peer.gathers else []
        if peer.gathers:
            crowded = takes_tasks and len(others) > 1
            self._crowded.put(peer, (peer.generation, len(others)) if crowded else None)
            if credit and not others:
                self._emptied[peer.generation] = None
        for stage, need in peer.needs.items():
            room, place = credit and free >= need, load
            if stage is Stage.DENOISE and peer.gathers:
                batch = others[0].batch if others else ""
                joinable = room and load < 0 and batch and all(task.batch == batch for task in others)
                self._join(peer, ((peer.generation, batch), len(others)) if joinable else None)
                room = room and all(task.ends_soon for task in others)
                # Beside one that is about to end it would wait: that is no idle place.
                place = max(0, load) if others else load
            self._offer(stage, peer, (peer.generation, place) if room else None)

    def _offer(self, stage: Stage, peer: Peer[R], now: tuple[str, int] | None) -> None:
        before = self._open[stage].put(peer, now)
        if before == now:
            return
        place = (stage, peer.generation)
        more = (now is not None and now[1] < 0) - (before is not None and before[1] < 0)
        self._idle[place] += more
        if not self._idle[place]:
            del self._idle[place]

    def _join(self, peer: Peer[R], now: tuple[Batch, int] | None) -> None:
        before = self._joinable.put(peer, now)
        for at, more in ((before, -1), (now, 1)):
            if at is not None and before != now:
                (generation, batch), _ = at
                self._marked[generation, mark(batch)] += more

    # ------------------------------------------------------------ who has one

    def is_open(self, stage: Stage, generation: str, marked: int = NO_MARK) -> bool:
        """Whether there may be a peer for a job; if it is of a batch with such a mark."""
        return generation in self._open[stage] or self._marked[generation, marked] > 0

    def has_idle(self, stage: Stage, generation: str) -> bool:
        return self._idle[stage, generation] > 0

    def idle(self, wanted: Callable[[Place], bool]) -> Iterator[tuple[Place, dict[Peer[R], int]]]:
        """Where peers could start a task at once, and how many each."""
        for place in [place for place in self._idle if wanted(place)]:
            stage, generation = place
            by_load = ((load, peers) for load, peers in self._open[stage].of(generation).items() if load < 0)
            # A place that is being freed has been freed for somebody.
            yield place, {peer: -load for load, peers in by_load for peer in peers.values() if not peer.parking}

    def accepts(self, peer: Peer[R], job: Job[R], *, joins: bool) -> bool:
        """Whether what it denoises leaves room for the job beside it."""
        others = peer.denoises if peer.gathers and job.stage is Stage.DENOISE else []
        if all(task.ends_soon for task in others):
            return True
        company, number = job.company, len(others) + 1
        same = company and all(task.batch == company for task in others)
        return joins and bool(same) and peer.load < 0 and self._batches.pays(peer.generation, company, number)

    @property
    def unspread(self) -> bool:
        """Whether a peer that could share forwards has come to denoise nothing, while others may be crowded."""
        return bool(self._emptied)

    def spread(self) -> Iterator[tuple[int, list[Peer[R]]]]:
        """Since the last call, where that is so: how many of them there still are, and the most crowded of the others,
        those first that denoise the most."""
        emptied, self._emptied = self._emptied, {}
        for generation in emptied:
            crowded = self._crowded.of(generation)
            some = (peer for number in sorted(crowded, reverse=True) for peer in crowded[number].values())
            if (idle := self._idle[Stage.DENOISE, generation]) and crowded:
                yield idle, list(islice(some, LOOKED_AT))

    def choose(
        self, job: Job[R], generations: Sequence[str], shun: Collection[str], apart: Names, *, joins: bool
    ) -> Peer[R] | None:
        """The peer that should run it, if any can just now.

        shun: peers that it had better not go to. apart: adapters that not all peers offer. joins: it may be denoised
        beside others, where no peer is idle.
        """
        open_ = [self._open[job.stage].of(generation) for generation in generations]
        loads = sorted({load for by_load in open_ for load in by_load})
        for load in loads:
            if load >= 0:
                break
            if (peer := self._of(job, [by_load.get(load, {}) for by_load in open_], shun, apart)) is not None:
                return peer
        if job.stage is Stage.DENOISE and joins and (company := job.company):
            for generation in generations:
                if (peer := self._join_others(job, (generation, company), shun, apart)) is not None:
                    return peer
        for load in loads:
            if load >= 0 and (peer := self._of(job, [by_load.get(load, {}) for by_load in open_], shun, apart)):
                return peer
        return None

    def _join_others(self, job: Job[R], batch: Batch, shun: Collection[str], apart: Names) -> Peer[R] | None:
        """Where its own steps and those of the others there become the least slower, among numbers that pay."""
        by_number = self._joinable.of(batch)
        numbers = [number for number in by_number if self._batches.pays(*batch, number + 1)]
        for number in sorted(numbers, key=lambda number: self._batches.cost(*batch, number)):
            if (peer := self._of(job, [by_number[number]], shun, apart)) is not None:
                return peer
        return None

    def _of(
        self, job: Job[R], some: Sequence[Mapping[str, Peer[R]]], shun: Collection[str], apart: Names
    ) -> Peer[R] | None:
        """Of peers that may as well take it, the one that holds its input; else the first with the fewest adapters to
        load."""
        kept_by = job.input.incarnation if job.input is not None else ""
        for peers in some:
            keeper = peers.get(kept_by)
            if keeper is not None and keeper.incarnation not in shun and can_take(keeper, job):
                return keeper
        equals = (
            peer
            for peers in some
            for incarnation, peer in peers.items()
            if incarnation not in shun and not (apart and not can_take(peer, job))
        )
        adapters = needs(job)
        if not adapters:
            return next(equals, None)
        return min(islice(equals, self._compared), key=lambda peer: peer.loads_for(adapters), default=None)
