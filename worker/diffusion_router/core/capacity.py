"""What the peers that take tasks can do at once: what predictions divide the queue by."""

from __future__ import annotations

from collections import Counter
from typing import Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.peer import Peer


class Capacity(Generic[R]):
    def __init__(self) -> None:
        self.places: Counter[frozenset[Stage]] = Counter()
        """By all that a peer does: how many tasks such peers compute one after the other."""
        # Peers that share forwards among denoisings, by generation and capacity.
        self._gathering: Counter[tuple[str, int]] = Counter()
        # What each peer is counted with.
        self._counted: dict[str, tuple[int, tuple[str, int] | None]] = {}

    def count(self, peer: Peer[R], *, takes_tasks: bool) -> None:
        """To be called when the peer comes or goes, or takes tasks or does so no more."""
        places, kind = self._counted.pop(peer.incarnation, (0, None))
        self.places[peer.stages] -= places
        if kind is not None:
            self._gathering[kind] -= 1
        if takes_tasks:
            kind = (peer.generation, peer.capacity) if peer.gathers else None
            # However many a peer denoises together, what they take is counted as of one after the other (`estimates`).
            places = 1 if kind else peer.capacity
            self._counted[peer.incarnation] = (places, kind)
            self.places[peer.stages] += places
            if kind is not None:
                self._gathering[kind] += 1
        # Only what there is stays counted.
        self.places += Counter()
        self._gathering += Counter()

    def gathering(self) -> tuple[str, int] | None:
        """Generation and capacity of most of those that share forwards, if any do."""
        return next((kind for kind, _ in self._gathering.most_common(1)), None)
