"""Points at which a router can be cut: before and after whatever it awaits of what outlives it, and each answer.

Nobody lists them: every method of a store that is a coroutine is one, whatever is added later. A router that is cut
does nothing more, as one that is killed: it neither goes on nor fails, and nothing that it still awaits comes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

_TURNS: Final = 20


class Points:
    """Cuts at the `cut_at`th point that is reached; None: counts them."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.reached: list[str] = []
        self.cut = asyncio.Event()
        self._cut_at = cut_at

    async def reach(self, name: str) -> None:
        if not self.cut.is_set():
            if len(self.reached) == self._cut_at:
                self.cut.set()
            self.reached.append(name)
        if self.cut.is_set():
            await asyncio.Event().wait()

    def around(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self.reach(f"before {name}")
            # It takes its time: whoever does not wait for it, though it should, goes on.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            await self.reach(f"late before {name}")
            result = await method(*args, **kwargs)
            await self.reach(f"after {name}")
            return result

        return call


class Watched:
    """An object all of whose coroutines have a point before and after them."""

    def __init__(self, target: object, points: Points) -> None:
        self._target = target
        self._points = points

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._target, name)
        if inspect.iscoroutinefunction(member):
            return self._points.around(f"{type(self._target).__name__}.{name}", member)
        if inspect.isasyncgenfunction(member):
            return self._batches(name, member)
        return member

    def _batches(self, name: str, member: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def batches(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for batch in member(*args, **kwargs):
                await self._points.reach(f"within {name}")
                yield batch

        return batches
