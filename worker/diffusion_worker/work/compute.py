"""The one thread that computes, so that the event loop never does: heartbeats go out during any stage.

It has two kinds of work. A *piece* runs from its beginning to its end: an encode, a decode, loading a model. The *hub*
makes denoisings go on, forward by forward. While there is both they take turns, one piece, one forward, so that a long
decode costs those that denoise its own time and no more, and many steps keep nobody from encoding.

The thread decides nothing else; what runs is the event loop's choice. Results come back as callbacks on the loop. What
it is at, and that it goes on, it says in `underway`, where the watchdog looks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import structlog
import torch

from diffusion_worker.work.hub import Hub, Member, Ticked
from diffusion_worker.work.watch import Doing, Underway

T = TypeVar("T")
Done = Callable[[Any, BaseException | None], None]
ANSWER_SECONDS: Final = 1.0
"""How long the thread waits for a piece that it asked for, before it goes on without."""

_END: Final = object()
_NOTHING: Final = object()

log = structlog.get_logger()


class ComputeThread:
    """A daemon, so that a stage stuck in native code can't keep the process from ending."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, hub: Hub[Any], forward: Callable[[Ticked, float], None] = lambda *_: None
    ) -> None:
        """forward: told of each forward of the hub, and its seconds."""
        self._loop = loop
        self._hub = hub
        self._forward = forward
        self.underway: Underway = hub.underway
        self._arrived: SimpleQueue[Any] = SimpleQueue()
        self._pieces: deque[Callable[[], None]] = deque()
        self._asked = False
        self._told_to_end = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def sound(self) -> bool:
        """Whether it computes what it is given, or was told to end."""
        return self._told_to_end or self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        return self._thread.ident

    def submit(
        self, doing: Doing, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run a piece after all that was submitted before; then call `done(result, error)` on the loop."""

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            self.underway.begin(doing)
            try:
                result = work()
            except BaseException as raised:
                error = raised
            self.underway.end(learn=error is None)
            self.post(done, result, error)

        self._arrived.put(run)

    async def run(self, doing: Doing, work: Callable[[], T]) -> T:
        """As `submit`, for callers that wait. A caller that is cancelled stops waiting; the work goes on."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # no error: T's own None, or a T

        self.submit(doing, work, done)
        return await future

    def request(self, give: Callable[[], bool]) -> None:
        """Have the thread ask for a piece as soon as it would begin one: it calls `give` on the loop, and waits.

        `give` submits a piece, or returns False. So what is submitted to a thread that computes still starts at once,
        and until then it can be withdrawn, or give way to what is more urgent.
        """
        self._arrived.put(_Command(lambda: self._ask(give)))

    def denoise(self, member: Member[Any]) -> None:
        """Have the hub take a strand on, before the next forward. The strand's end is the member's to tell."""
        self._arrived.put(_Command(lambda: self._hub.add(member)))

    def end(self, member: Member[Any], error: BaseException) -> None:
        """Raise `error` in a strand before the next forward, unless it has ended."""
        self._arrived.put(_Command(lambda: self._hub.end(member, error)))

    def post(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call back on the loop, from this thread. Nobody listens any more once the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def stop(self) -> None:
        """End the thread once it is idle. Does not wait."""
        self._told_to_end = True
        self._arrived.put(_END)

    def _run(self) -> None:
        try:
            self._main()
        except BaseException as error:
            # Of no task, whose errors are its own: what it was at stays written in `underway`.
            log.error("compute_thread_ended", exc_info=error)

    @torch.no_grad()
    def _main(self) -> None:
        while self._take_in():
            if self._pieces:
                self._pieces.popleft()()
            begun = time.perf_counter()
            if (ticked := self._hub.tick()) is not None:
                self._forward(ticked, time.perf_counter() - begun)

    def _take_in(self) -> bool:
        """All that came; waits for something where there is nothing to do. False: the end came."""
        until = 0.0 if self._pieces or not self._hub.idle else None
        while True:
            try:
                item = self._arrived.get(block=until != 0.0, timeout=until)
            except Empty:
                self._asked = False
                return True
            if item is _END:
                return False
            if isinstance(item, _Command):
                item.carry_out()
            elif item is not _NOTHING:
                self._pieces.append(item)
            self._asked &= isinstance(item, _Command)
            until = ANSWER_SECONDS if self._asked else 0.0

    def _ask(self, give: Callable[[], bool]) -> None:
        def answer() -> None:
            if not give():
                self._arrived.put(_NOTHING)

        self._asked = True
        self.post(answer)


class _Command:
    def __init__(self, carry_out: Callable[[], None]) -> None:
        self.carry_out = carry_out
