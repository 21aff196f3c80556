"""How long what a worker is at may stand still, and whether it has for longer (I13).

Nothing here is measured from outside: the compute thread says what it begins, and each step of it; the event loop
answers when it is asked. What has not said a word for longer than it is known to take, many times over, stands still.

Pure: the clock is an argument. Only time in which somebody looked counts, so that a process that was frozen, or a
machine that was, finds nothing overdue when it goes on.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_KEPT: Final = 256
"""Kinds of work of which it is known how long they take."""
FORGETS: Final = 0.02
"""How much nearer each shorter time brings what is known: one exception is forgotten in about a hundred."""
MEASURED_FIRST: Final = 3
MEASURED_EVERY: Final = 64
FORWARD: Final = "forward"
"""What a Doing of a network is."""
NAMED: Final = 4
"""Tasks that a message names."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may pass without a word, in seconds."""

    multiple: float = 10.0
    """Times what such work is known to take here …"""
    known: float = 60.0
    """… and never less than this …"""
    first: float = 900.0
    """… or than this, while it is not known: it may compile, or read weights that nobody has read yet."""


@dataclass(frozen=True, slots=True)
class Doing:
    """Something that the compute thread is at: what, of which shape, and whose tasks wait for it."""

    what: str
    shape: str = ""
    tasks: tuple[str, ...] = ()
    bounded: bool = True
    """Whether it is known to end in any time."""

    def __str__(self) -> str:
        return f"{self.what} ({self.shape})" if self.shape else self.what


@dataclass(slots=True)
class _Habit:
    seconds: float = 0.0
    learnt: int = 0
    begun: int = 0


class Habits:
    """How long work takes here without a word, by what it is and its shape.

    The longest counts, and fades slowly, since work of one shape varies; but not the very first: whatever is only done
    once would make it no measure for the next. Written by the compute thread, read by any.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._habits: OrderedDict[tuple[str, str], _Habit] = OrderedDict()
        self._longest_forward = 0.0

    def measure(self, doing: Doing) -> bool:
        """Whether this time is one to measure: of the first, all, later only some.

        A device goes on after a call that is not waited for has returned, so that to measure one it is waited for.
        """
        habit = self._habit(doing)
        habit.begun += 1
        return habit.begun <= MEASURED_FIRST or habit.begun % MEASURED_EVERY == 0

    def learn(self, doing: Doing, seconds: float) -> None:
        habit = self._habit(doing)
        seconds = min(seconds, self.allowed(doing))
        if habit.learnt > 1:
            seconds = max(seconds, habit.seconds + FORGETS * (seconds - habit.seconds))
        habit.seconds = seconds
        habit.learnt += 1
        if doing.what == FORWARD:
            forwards = (other.seconds for (what, _), other in self._habits.items() if what == FORWARD)
            self._longest_forward = max(forwards)

    def known(self, doing: Doing) -> float | None:
        habit = self._habits.get((doing.what, doing.shape))
        return habit.seconds if habit is not None and habit.learnt else None

    def allowed(self, doing: Doing) -> float:
        """Seconds that it may stand still.

        A device does one thing after the other: whatever waits for it may wait for the longest forward that there is.
        """
        habit = self._habits.get((doing.what, doing.shape), _Habit())
        least = self._bounds.known if habit.learnt > 1 else self._bounds.first
        return max(least, self._bounds.multiple * max(habit.seconds, self._longest_forward))

    @property
    def known_floor(self) -> float:
        return self._bounds.known

    def _habit(self, doing: Doing) -> _Habit:
        key = (doing.what, doing.shape)
        habit = self._habits.setdefault(key, _Habit())
        self._habits.move_to_end(key)
        if len(self._habits) > MAX_KEPT:
            self._habits.popitem(last=False)
        return habit


class Underway:
    """What the compute thread is at. Written by that thread alone, read by any."""

    def __init__(self, habits: Habits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._habits = habits or Habits(Bounds())
        self._clock = clock
        self._since = self._longest = 0.0
        self.seen: tuple[Doing | None, int] = (None, 0)
        """What, and how many words there were so far: as long as this is the same, the thread stands still."""

    def begin(self, doing: Doing) -> None:
        self._since, self._longest = self._clock(), 0.0
        self.seen = (doing, self.seen[1] + 1)

    def measure(self) -> bool:
        """Whether what was just begun is to be waited for, and learnt from."""
        doing, _ = self.seen
        return doing is not None and self._habits.measure(doing)

    def step(self) -> None:
        """A word in the middle of it."""
        doing, words = self.seen
        self._note()
        self.seen = (doing, words + 1)

    def end(self, *, learn: bool = True) -> None:
        """`learn`: it went as it should, so that it says how long such work takes."""
        doing, words = self.seen
        self._note()
        if doing is not None and learn:
            self._habits.learn(doing, self._longest)
        self.seen = (None, words + 1)

    def _note(self) -> None:
        now = self._clock()
        self._longest = max(self._longest, now - self._since)
        self._since = now


class Part(StrEnum):
    """Of a worker: what stands still."""

    STAGE = "stage"
    THREAD = "thread"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class Stall:
    """What stands still. `tasks`: those that may be to blame."""

    part: Part
    message: str
    tasks: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = len(self.tasks) - NAMED
        names = ", ".join(self.tasks[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{self.message} (task {names})" if names else self.message


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker at one moment."""

    underway: tuple[Doing | None, int]
    computes: bool
    """The compute thread lives."""
    answers: int
    """How often the event loop has answered."""


class Watch:
    """Is shown the worker again and again. `interval`: what lies between two looks unless something is wrong."""

    def __init__(self, habits: Habits, interval: float) -> None:
        self._habits = habits
        self._interval = interval
        self._looked_at: float | None = None
        self._compute = _Standing()
        self._loop = _Standing()

    @property
    def standing(self) -> float:
        """Seconds since the compute thread's last word; 0 while it has nothing to do."""
        return self._compute.seconds

    def look(self, now: float, seen: Seen) -> Stall | None:
        """`now` in seconds. What is found first is told; then there is no point in looking again."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, 2 * self._interval)
        self._looked_at = now
        doing, words = seen.underway
        self._compute.look(words, passed, idle=doing is None)
        self._loop.look(seen.answers, passed)
        if not seen.computes:
            at = f" during {doing}" if doing is not None else ""
            return Stall(Part.THREAD, f"the compute thread ended{at}", doing.tasks if doing is not None else ())
        if doing is not None and doing.bounded and self._compute.seconds > (bound := self._habits.allowed(doing)):
            return Stall(Part.STAGE, self._overdue(doing, bound), doing.tasks)
        if self._loop.seconds > (bound := self._habits.known_floor):
            message = f"the event loop has not answered for {self._loop.seconds:.3g} s; it may take {bound:.3g} s"
            return Stall(Part.LOOP, message)
        return None

    def _overdue(self, doing: Doing, bound: float) -> str:
        known = self._habits.known(doing)
        usual = "is not known to take any time here yet" if known is None else f"is known to take {known:.3g} s here"
        return f"{doing} stands still for {self._compute.seconds:.3g} s: it {usual}, and may take {bound:.3g} s"


class _Standing:
    """For how long a count has stood still, of the time in which somebody looked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._count: int | None = None

    def look(self, count: int, passed: float, *, idle: bool = False) -> None:
        self.seconds = 0.0 if idle or count != self._count else self.seconds + passed
        self._count = count
