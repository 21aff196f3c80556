"""Peers that could be sent a task now, and which of them a job gets.

Peers are indexed by their load. One that shares forwards among denoisings is open to any job only while it denoises
nothing; then to jobs of the same batch, as far as that pays (`batches`). To another kind it would give no forward, and
only keep it from a peer that does: a worker computes its first task, and beside it what shares its forwards. So such a
job is sent only when all that is computed there is about to end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Final, Generic
from zlib import crc32

from diffusion_router.core.batches import Batches
from diffusion_router.core.behind import Place
from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import Names, can_take, needs
from diffusion_router.core.state import Job, Peer

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
        # Peers with a credit and room, by load (tasks beyond capacity), the longest unchanged first; where each is.
        self._open: dict[Place, dict[int, dict[str, Peer[R]]]] = defaultdict(dict)
        self._loads: dict[str, dict[Stage, int]] = {}
        # How many of them have an idle place.
        self._idle: Counter[Place] = Counter()
        # Peers that denoise jobs of one batch and have a place for more, by how many they denoise; where each is.
        self._joinable: dict[tuple[str, str], dict[int, dict[str, Peer[R]]]] = {}
        self._joined: dict[str, tuple[tuple[str, str], int]] = {}
        self._marked: Counter[tuple[str, int]] = Counter()
        # Peers that denoise several, by how many; where each is. Generations in which one came to denoise nothing.
        self._crowded: dict[str, dict[int, dict[str, Peer[R]]]] = {}
        self._crowds: dict[str, int] = {}
        self._emptied: dict[str, None] = {}

    # ------------------------------------------------------------ what changes

    def enter(self, peer: Peer[R], *, takes_tasks: bool, credit: bool) -> None:
        """To be called when the peer has other tasks or other room. takes_tasks: whether it ever may be sent one, and
        credit: now."""
        load, free = peer.load, peer.free_slots
        loads = self._loads.setdefault(peer.incarnation, {})
        others = peer.denoises if peer.gathers else []
        if peer.gathers:
            self._crowd(peer, len(others) if takes_tasks else 0)
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
            before, now = loads.get(stage), place if room else None
            if now != before:
                self._move(stage, peer, before, now)
        if not loads:
            del self._loads[peer.incarnation]

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

    def _join(self, peer: Peer[R], now: tuple[tuple[str, str], int] | None) -> None:
        before = self._joined.get(peer.incarnation)
        if before == now:
            return
        if before is not None:
            (generation, batch), number = before
            by_number = self._joinable[generation, batch]
            del self._joined[peer.incarnation], by_number[number][peer.incarnation]
            self._marked[generation, mark(batch)] -= 1
            if not by_number[number]:
                del by_number[number]
            if not by_number:
                del self._joinable[generation, batch]
        if now is not None:
            (generation, batch), number = self._joined[peer.incarnation] = now
            self._joinable.setdefault((generation, batch), {}).setdefault(number, {})[peer.incarnation] = peer
            self._marked[generation, mark(batch)] += 1

    def _crowd(self, peer: Peer[R], number: int) -> None:
        before, of_generation = self._crowds.get(peer.incarnation, 0), self._crowded.setdefault(peer.generation, {})
        number = number if number > 1 else 0
        if before and before != number:
            del self._crowds[peer.incarnation], of_generation[before][peer.incarnation]
            if not of_generation[before]:
                del of_generation[before]
        if number and before != number:
            self._crowds[peer.incarnation] = number
            of_generation.setdefault(number, {})[peer.incarnation] = peer
        if not of_generation:
            del self._crowded[peer.generation]

    # ------------------------------------------------------------ who has one

    def is_open(self, stage: Stage, generation: str, marked: int = NO_MARK) -> bool:
        """Whether there may be a peer for a job; if it is of a batch with such a mark."""
        return (stage, generation) in self._open or self._marked[generation, marked] > 0

    def has_idle(self, stage: Stage, generation: str) -> bool:
        return self._idle[stage, generation] > 0

    def idle(self, wanted: Callable[[Place], bool]) -> Iterator[tuple[Place, dict[Peer[R], int]]]:
        """Where peers could start a task at once, and how many each."""
        for place in [place for place, idle in self._idle.items() if idle and wanted(place)]:
            by_load = ((load, peers) for load, peers in self._open[place].items() if load < 0)
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
            crowded = self._crowded.get(generation, {})
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
        open_ = [by_load for generation in generations if (by_load := self._open.get((job.stage, generation)))]
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

    def _join_others(self, job: Job[R], batch: tuple[str, str], shun: Collection[str], apart: Names) -> Peer[R] | None:
        """Where its own steps and those of the others there become the least slower, among numbers that pay."""
        by_number = self._joinable.get(batch, {})
        numbers = [number for number in by_number if self._batches.pays(*batch, number + 1)]
        for number in sorted(numbers, key=lambda number: self._batches.cost(*batch, number)):
            if (peer := self._of(job, [by_number[number]], shun, apart)) is not None:
                return peer
        return None

    def _of(self, job: Job[R], some: list[dict[str, Peer[R]]], shun: Collection[str], apart: Names) -> Peer[R] | None:
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
