"""Waiting, with a deadline, for what nobody tells of, and a word on what was seen last when it does not come."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

FIRST_PAUSE: Final = 0.01


class TooLate(AssertionError):
    """What was waited for did not come in time; says what was seen last."""


class NotYet(Exception):
    """Raised by a condition that is not met, to say what it saw."""


def until(
    condition: Callable[[], T],
    seconds: float,
    what: str,
    *,
    unless: Callable[[], object] | None = None,
    despite: tuple[type[Exception], ...] = (),
    longest_pause: float = 0.1,
) -> T:
    """Looks again and again until the condition says something true, which is returned. Raises TooLate.

    `unless` is called after each look that found it unmet, and raises if it never will be. Exceptions of the types
    `despite` are a condition not met. `what` is what is waited for: "the router is ready". Pauses grow to the longest.
    """
    wait = _Wait(seconds, what)
    not_yet = (NotYet, *despite)
    pause = min(FIRST_PAUSE, longest_pause)
    while True:
        try:
            if found := condition():
                return found
            wait.saw(found)
        except not_yet as error:
            wait.saw(error)
        if unless is not None:
            unless()
        wait.check()
        time.sleep(pause)
        pause = min(pause * 1.5, longest_pause)


async def eventually(
    condition: Callable[[], T | Awaitable[T]], seconds: float, what: str, *, pause: float = 0.005
) -> T:
    """`until` for an event loop, which runs on meanwhile: the condition may be a coroutine function, and has no more
    than these seconds for each look."""
    wait = _Wait(seconds, what)
    while True:
        try:
            looked = condition()
            found: T = await asyncio.wait_for(looked, seconds) if inspect.isawaitable(looked) else looked
            if found:
                return found
            wait.saw(found)
        except NotYet as error:
            wait.saw(error)
        wait.check()
        await asyncio.sleep(pause)


def throughout(condition: Callable[[], object], seconds: float, what: str, *, pause: float = 0.1) -> None:
    """Looks again and again for all of these seconds, and raises AssertionError if it is once not so."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        assert condition(), f"after {passed:.1f} s no longer: {what}"
        time.sleep(pause)


async def always(condition: Callable[[], object], seconds: float, what: str, *, pause: float = 0.01) -> None:
    """`throughout` for an event loop."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        assert condition(), f"after {passed:.1f} s no longer: {what}"
        await asyncio.sleep(pause)


class _Wait:
    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._end = time.monotonic() + seconds
        self._seen: object = None

    def saw(self, seen: object) -> None:
        self._seen = seen

    def check(self) -> None:
        """Raises TooLate when the time is over."""
        if time.monotonic() > self._end:
            raise TooLate(f"not within {self._seconds:g} s: {self._what}{self._last_seen()}")

    def _last_seen(self) -> str:
        if isinstance(self._seen, NotYet):
            return f"; last seen: {self._seen}"
        if isinstance(self._seen, Exception):
            return f"; last seen: {type(self._seen).__name__}: {self._seen}"
        # False and None say no more than that it is not so.
        return "" if self._seen is False or self._seen is None else f"; last seen: {self._seen!r}"
