"""How a worker stands, for those who probe it: what keeps it from being ready, and what of it stands still."""

from __future__ import annotations

import asyncio
from typing import Final

from diffusion_worker.downloading import Downloading
from diffusion_worker.health import Health
from diffusion_worker.work.watch import Stall

OPENING: Final = "opening the transport"
LOADING: Final = "loading the model"
UNREGISTERED: Final = "not registered with the router"


class Standing:
    """Made on the loop. It begins with opening the transport."""

    def __init__(self, downloading: Downloading) -> None:
        self.health = Health(self._not_alive, self._not_ready)
        self.stalled: asyncio.Future[Stall] = asyncio.get_running_loop().create_future()
        """What stands still, once something does."""
        self.takes_work = False
        """Whether the router may have heard of it: then it leaves by draining."""
        self._downloading = downloading
        self._state = OPENING
        self._leaving = False
        self._announcing: set[asyncio.Task[None]] = set()

    def become(self, state: str) -> None:
        """Why the worker is not ready; empty: it is."""
        self._state = state
        announcing = asyncio.get_running_loop().create_task(self.health.publish())
        self._announcing.add(announcing)
        announcing.add_done_callback(self._announcing.discard)

    def leave(self, state: str) -> None:
        """From now on it is never ready again, registered or not."""
        self._leaving = True
        self.become(state)

    def registered(self, registered: bool) -> None:
        """Whether the router knows it."""
        if not self._leaving:
            self.become("" if registered else UNREGISTERED)

    def stall(self, stall: Stall) -> None:
        """Something stands still: it can't go on."""
        self.stalled.set_result(stall)
        self.leave(f"leaving: {stall}")

    def _not_alive(self) -> str:
        return f"stalled: {self.stalled.result()}" if self.stalled.done() else ""

    def _not_ready(self) -> str:
        progress = self._downloading.progress
        return f"{self._state}: {progress}" if self._state == LOADING and progress else self._state
