"""One request's denoising as a coroutine of steps, which its code does not know to be.

A pipeline's code calls its networks as functions and never heard of waiting. It runs on a greenlet of the compute
thread: `ask` inside suspends it, wherever it stands, until `answer` or `throw` outside. Exactly one strand runs at a
time, on one thread, so that nothing needs a lock and the order of all is repeatable.

Unlike a thread, a greenlet shares the thread's state with all others: torch's gradient mode (always off here), the
current device (never changed), and the pool of threads that torch computes with (which a thread of its own would not
have: other bits on a CPU). What a strand itself changes of it, it puts back before it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from diffusion_worker.model.calls import Call

R = TypeVar("R")
Ask = Callable[[Sequence[Call]], list[Any]]
"""Suspends until all these calls are answered. Raises what one of them raised, or what ends the strand."""


class Strand(Generic[R]):
    """`work` gets `ask`. Nothing runs before `start`; it has ended when `calls` is empty."""

    def __init__(self, work: Callable[[Ask], R]) -> None:
        self._work = work
        self._greenlet = greenlet(self._main)
        self.calls: Sequence[Call] = ()
        """What it waits for."""
        self.result: R | None = None
        self.error: BaseException | None = None

    def start(self) -> None:
        """Run until it asks for the first time, or ends."""
        self._switch()

    def answer(self, answers: Sequence[Any]) -> None:
        """Run on with what it asked for."""
        self._switch(answers)

    def throw(self, error: BaseException) -> None:
        """Run on with `error` in the place of what it asked for, or of its beginning."""
        self._switch(error)

    def _switch(self, given: Sequence[Any] | BaseException | None = None) -> None:
        self.calls = ()
        self._outside = getcurrent()
        # Where it goes when it ends; until then it goes back by itself.
        self._greenlet.parent = self._outside
        self._greenlet.switch(given)

    def _main(self, given: Sequence[Any] | BaseException | None) -> None:
        try:
            if isinstance(given, BaseException):
                raise given
            self.result = self._work(self._ask)
        except BaseException as error:
            self.error = error

    def _ask(self, calls: Sequence[Call]) -> list[Any]:
        self.calls = calls
        given = self._outside.switch()
        if isinstance(given, BaseException):
            raise given
        return list(given)
