"""Peers in order of a number, for each key: an index of which every question and every change costs the same, whatever
the size of the fleet."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeAlias, TypeVar

from diffusion_router.core.events import R
from diffusion_router.core.peer import Peer

K = TypeVar("K", bound=Hashable)

ByNumber: TypeAlias = Mapping[int, Mapping[str, Peer[R]]]


class Ranked(Generic[K, R]):
    """Of one number, those first that have had it the longest."""

    def __init__(self) -> None:
        self._by_key: dict[K, dict[int, dict[str, Peer[R]]]] = {}
        self._at: dict[str, tuple[K, int]] = {}

    def put(self, peer: Peer[R], at: tuple[K, int] | None) -> tuple[K, int] | None:
        """Enters it there, and nowhere else. Where it was before."""
        before = self._at.get(peer.incarnation)
        if before == at:
            return before
        if before is not None:
            key, number = before
            by_number = self._by_key[key]
            del self._at[peer.incarnation], by_number[number][peer.incarnation]
            if not by_number[number]:
                del by_number[number]
            if not by_number:
                del self._by_key[key]
        if at is not None:
            key, number = self._at[peer.incarnation] = at
            self._by_key.setdefault(key, {}).setdefault(number, {})[peer.incarnation] = peer
        return before

    def __contains__(self, key: K) -> bool:
        return key in self._by_key

    def of(self, key: K) -> ByNumber[R]:
        """By number; numbers are in no order, and none is without a peer."""
        return self._by_key.get(key, {})
