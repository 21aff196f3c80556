"""Which peers of each generation stay, what they offer, and so where a job could begin, go on and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import Names, Offers, can_take
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job


class Generations(Generic[R]):
    """`peers` are the book's own and only read here."""

    def __init__(self, peers: Mapping[str, Peer[R]]) -> None:
        self._peers = peers
        self.offers: Offers[R] = Offers()
        self.complete: list[str] = []
        """Those in which a job could begin and end."""
        # Peers that take tasks, or may again, by stage and generation, in order.
        self._staying: dict[Stage, dict[str, dict[str, None]]] = {stage: {} for stage in Stage}
        # Of them those that share forwards among denoisings.
        self._gathering: Counter[str] = Counter()
        self._gathers: set[str] = set()

    def seat(self, peer: Peer[R]) -> tuple[bool, bool]:
        """To be called when the peer comes or goes, or its state or what it offers is another. Whether a role of its
        generation has come or gone; and whether a job that waits may be another's to take, for that or for what is
        offered."""
        stays = peer.incarnation in self._peers and not peer.draining
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
            self.complete = [g for g in self._staying[Stage.ENCODE] if self.can_end(g, Stage.ENCODE)]
        gathered = self.gathers(peer.generation)
        self._gathering[peer.generation] += (stays and peer.gathers) - (peer.incarnation in self._gathers)
        self._gathering += Counter()
        (self._gathers.add if stays and peer.gathers else self._gathers.discard)(peer.incarnation)
        offered = self.offers.seat(peer, stays=stays)
        return turned, turned or offered or gathered is not self.gathers(peer.generation)

    def staying(self, stage: Stage, generation: str) -> Iterator[Peer[R]]:
        """Peers of a role that take tasks, or may again."""
        return (self._peers[incarnation] for incarnation in self._staying[stage].get(generation, ()))

    def gathers(self, generation: str) -> bool:
        """Whether a denoiser of it shares forwards among denoisings."""
        return generation in self._gathering

    def has_others(self, job: Job[R], generations: Iterable[str]) -> bool:
        """Whether a peer takes tasks that could run the job's stage, and none of it has failed there."""
        able = (peer for generation in generations for peer in self.staying(job.stage, generation))
        return any(peer.takes_tasks and peer.incarnation not in job.avoid and can_take(peer, job) for peer in able)

    def can_end(self, generation: str, stage: Stage) -> bool:
        """Whether a job of this generation can go on from `stage` to its end; a role that nobody has may yet come."""
        return all(generation in self._staying[later] or not self._staying[later] for later in Stage if later >= stage)

    def is_stranded(self, generation: str, stage: Stage, apart: Names) -> bool:
        """Whether a job with an input of this generation ends only if it starts over with another."""
        return (
            bool(generation)
            and any(other != generation and self.offers.by_any(other, apart) for other in self.complete)
            and not (self.can_end(generation, stage) and self.offers.by_any(generation, apart))
        )

    def begins_in(self, job: Job[R]) -> str:
        """Empty: in any generation, since none is said, or nobody could end it in that one."""
        own = job.begins_in
        return own if own in self.complete and self.offers.by_any(own, job.adapters) else ""

    def of(self, job: Job[R]) -> list[str]:
        """In which it can be started."""
        if job.input is not None:
            return [job.input.generation]
        begins_in = self.begins_in(job)
        return [begins_in] if begins_in else self.complete
