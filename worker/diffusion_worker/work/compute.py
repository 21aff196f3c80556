"""The one thread that computes, so that the event loop never does: heartbeats go out during any stage.

Work is handed over one piece at a time and its result comes back as a callback on the loop. The thread decides
nothing; what runs next is the loop's choice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class ComputeThread:
    """A daemon, so that a stage stuck in native code can't keep the process from ending."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="compute", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `work` after all that was submitted before; then call `done(result, error)` on the loop."""

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            self.post(done, result, error)

        self._work.put(run)

    async def run(self, work: Callable[[], T]) -> T:
        """As `submit`, for callers that wait. A caller that is cancelled stops waiting; the work goes on."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # no error: T's own None, or a T

        self.submit(work, done)
        return await future

    def post(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call back on the loop, from this thread. Nobody listens any more once the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def stop(self) -> None:
        """End the thread once it is idle. Does not wait."""
        self._work.put(None)

    def _main(self) -> None:
        while (work := self._work.get()) is not None:
            work()
