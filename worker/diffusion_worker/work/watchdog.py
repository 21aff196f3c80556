"""A thread that looks at the worker, so that also an event loop that stands is seen: the thin shell around `watch`.

What it finds it tells the event loop, which takes leave of the router. Should the worker not have ended by then, for
whatever reason, the last resort ends it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.last_resort import LastResort, say
from diffusion_worker.work.watch import Habits, Part, Seen, Stall, Watch

INTERVAL_SECONDS: Final = 1.0
LEAVE_SECONDS: Final = 20.0
"""For the event loop to take leave, after a stall was found."""


class Watchdog:
    """Made on the loop's thread. `stalled` is called on the loop, once; `standing` on the watchdog's own thread, with
    the seconds without a word of computing."""

    def __init__(
        self,
        habits: Habits,
        compute: ComputeThread,
        loop: asyncio.AbstractEventLoop,
        *,
        stalled: Callable[[Stall], None],
        standing: Callable[[float], None],
        last_resort: LastResort | None,
    ) -> None:
        self._interval = min(INTERVAL_SECONDS, habits.known_floor / 4)
        self._watch = Watch(habits, self._interval)
        self._compute = compute
        self._loop = loop
        self._stalled = stalled
        self._standing = standing
        self._last_resort = last_resort
        self._asked = self._answers = 0
        self._loops_thread = threading.get_ident()
        self._stopped = threading.Event()
        if last_resort is not None:
            last_resort.put_off()
        threading.Thread(target=self._main, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more. Does not wait."""
        self._stopped.set()

    def _main(self) -> None:
        while not self._stopped.wait(self._interval):
            if self._last_resort is not None:
                self._last_resort.put_off()
            found = self._watch.look(time.monotonic(), self._look())
            self._standing(self._watch.standing)
            if found is not None:
                self._tell(found)
                return

    def _look(self) -> Seen:
        seen = Seen(self._compute.underway.seen, self._compute.sound, self._answers)
        if self._answers == self._asked:
            self._asked += 1
            self._post(self._answer)
        return seen

    def _answer(self) -> None:
        self._answers += 1

    def _tell(self, stall: Stall) -> None:
        self._post(self._stalled, stall)
        where = _calls(self._loops_thread if stall.part is Part.LOOP else self._compute.ident)
        say("stalled", part=stall.part.value, error=str(stall), tasks=list(stall.tasks), calls=where)
        if self._last_resort is not None:
            # Whether or not it was told to stop meanwhile: the process is to end, and what it does last may hang too.
            time.sleep(0.0 if stall.part is Part.LOOP else LEAVE_SECONDS)
            self._last_resort.end(stall)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


def _calls(thread: int | None) -> list[str]:
    """Where a thread is, innermost call last."""
    frame = sys._current_frames().get(thread or 0)
    found = traceback.extract_stack(frame) if frame is not None else []
    return [f"{call.filename}:{call.lineno} {call.name}" for call in found]
