"""Whose turn it is to move: of all pipelines of the cluster no more than so many do at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffusion_operator.cluster.keys import Key


class Turns:
    """`wake` is called for a pipeline that asked in vain and may ask again.

    A pipeline keeps its turn until it is ready again. So a version that breaks what it comes to stops there.
    """

    def __init__(self, at_once: int, wake: Callable[[Key], None]) -> None:
        self._at_once = at_once
        self._wake = wake
        self._moving: set[Key] = set()
        self._waiting: dict[Key, None] = {}
        self._woken: set[Key] = set()

    def begin(self, moving: Iterable[Key]) -> None:
        """Those that an earlier process let move, and that have not come to their end."""
        self._moving.update(moving)

    def has(self, key: Key) -> bool:
        return key in self._moving

    def take(self, key: Key) -> bool:
        self._woken.discard(key)
        if key not in self._moving and len(self._moving) >= self._at_once:
            self._waiting[key] = None
            return False
        self._waiting.pop(key, None)
        self._moving.add(key)
        return True

    def give_back(self, key: Key) -> None:
        """It has moved, is gone, or does not want to move any more."""
        self._moving.discard(key)
        self._waiting.pop(key, None)
        self._woken.discard(key)
        # One that was woken may find that it may not move now, and then gives back what it did not take.
        free = self._at_once - len(self._moving) - len(self._woken)
        for waiting in list(self._waiting)[: max(0, free)]:
            del self._waiting[waiting]
            self._woken.add(waiting)
            self._wake(waiting)
