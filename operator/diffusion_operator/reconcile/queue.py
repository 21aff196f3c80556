"""The queue of pipelines to reconcile.

What happened to a pipeline is of no interest, only that something did: the reconcile reads what is and makes it so. So
a key is in the queue at most once however often it is added, which also bounds the queue by the number of pipelines.
A key is never with two workers, so that one reconcile never races another for the same objects; one that is added
while it is being worked on comes back right after. A key that failed comes back after a pause that doubles, and a
key that is to be looked at later (a rate limit, something to wait for) at that time, or before if something happens.

Kubernetes' own work queue (client-go `workqueue`) behaves so, and its metrics have these names.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from diffusion_operator.cluster.keys import Key

FIRST_RETRY: Final = 0.1
LONGEST_RETRY: Final = 300.0
# A pause between half and the whole of it: those that failed together do not come back together.
_JITTER: Final = 0.5


class Observer(Protocol):
    """Told what the queue does; all times in seconds."""

    def added(self) -> None: ...

    def started(self, waited: float) -> None: ...

    def ended(self, worked: float) -> None: ...

    def retried(self) -> None: ...


class NoObserver:
    def added(self) -> None: ...

    def started(self, waited: float) -> None: ...

    def ended(self, worked: float) -> None: ...

    def retried(self) -> None: ...


class Queue:
    """All methods are called on the event loop, whose clock it goes by unless a test gives another."""

    def __init__(
        self,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._observer: Observer = observer or NoObserver()
        self._clock = clock or asyncio.get_running_loop().time
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._since: dict[Key, float] = {}
        """Ready keys: since when."""
        self._working: dict[Key, float] = {}
        self._again: set[Key] = set()
        """Added while being worked on."""
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        """Waiting keys: their earliest time. Other entries of `_later` for a key are stale."""
        self._order = itertools.count()
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        """Keys that nothing brings back before this time."""
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def working(self) -> int:
        return len(self._working)

    @property
    def longest_working(self) -> float:
        """Seconds that the oldest running reconcile has taken so far."""
        return self._clock() - min(self._working.values()) if self._working else 0.0

    @property
    def unfinished_working(self) -> float:
        """Seconds that all running reconciles have taken so far."""
        now = self._clock()
        return sum(now - began for began in self._working.values())

    @property
    def longest_waiting(self) -> float:
        """Seconds that the oldest ready key has waited for a worker."""
        return self._clock() - self._since[self._ready[0]] if self._ready else 0.0

    def add(self, key: Key) -> None:
        """To be worked on as soon as may be."""
        if key in self._working:
            self._again.add(key)
            return
        if key in self._since:
            return
        if (left := self._not_before.get(key, 0.0) - self._clock()) > 0:
            self.add_after(key, left)
            return
        self._not_before.pop(key, None)
        self._due.pop(key, None)
        self._since[key] = self._clock()
        self._ready.append(key)
        self._observer.added()
        self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """To be worked on in `seconds`, unless it is before."""
        if key in self._since:
            return
        due = self._clock() + seconds
        if self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._order), key))
        self._changed.set()

    def retry(self, key: Key, at_least: float = 0.0) -> None:
        """To be worked on again after a failure: each in a row doubles the pause, which ends if something happens.

        `at_least`: seconds before which the API server does not want to be asked again, whatever happens.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(FIRST_RETRY * 2.0 ** min(failures, 32), LONGEST_RETRY)
        self._observer.retried()
        if at_least:
            self._not_before[key] = self._clock() + at_least
        self.add_after(key, max(self._jitter(pause * _JITTER, pause), at_least))

    def failures(self, key: Key) -> int:
        """How often in a row it failed."""
        return self._failures.get(key, 0)

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Nothing is to be done for it any more."""
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        self._due.pop(key, None)
        self._again.discard(key)

    async def get(self) -> Key:
        """The next key; the caller has it to itself until `done`."""
        while True:
            self._move_due()
            if self._ready:
                key = self._ready.popleft()
                now = self._clock()
                self._observer.started(now - self._since.pop(key))
                self._working[key] = now
                return key
            self._changed.clear()
            timeout = self._later[0][0] - self._clock() if self._later else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        self._observer.ended(self._clock() - self._working.pop(key))
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _move_due(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
