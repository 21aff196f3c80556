"""The core's clock and its hands: every event goes through `Dispatcher.dispatch`, every action is carried out at once.

All of it happens on one asyncio loop and none of it awaits, so an event and what follows from it can't interleave with
another's.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from diffusion_router import core
from diffusion_router.peers import messages


class Hands(Protocol):
    """Who carries out actions. Must neither block nor raise."""

    def perform(self, action: messages.Action) -> None: ...


class Dispatcher:
    def __init__(self, machine: messages.Core) -> None:
        self.core = machine
        self._hands: list[Hands] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._peers_changed = asyncio.Event()

    def add_hands(self, hands: Hands) -> None:
        self._hands.append(hands)

    def dispatch(self, event: messages.Event) -> None:
        revision = self.core.revision
        for action in self.core.handle(event, time.monotonic()):
            for hands in self._hands:
                hands.perform(action)
        if self.core.revision != revision:
            self._peers_changed.set()
            self._peers_changed = asyncio.Event()
        self._set_timer()

    async def peers_changed(self) -> None:
        """Waits for the next change of the list of peers."""
        await self._peers_changed.wait()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        wakeup = self.core.wakeup()
        if wakeup is None or wakeup >= self._timer_at:
            return  # a timer that rings early only looks again
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wakeup
        delay = max(0.0, wakeup - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.dispatch(core.Tick())
