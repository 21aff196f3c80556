"""A quiet watch gives signs of life, and only what went wrong counts as a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from diffusion_operator.cluster import client as cluster
from diffusion_operator.cluster import reflector
from diffusion_operator.cluster.client import ApiError, Page, Unreachable, WatchEvent
from diffusion_operator.cluster.kinds import EVENT, POD_MONITOR, SERVICE, Kind
from diffusion_operator.cluster.reflector import Reflector
from diffusion_operator.cluster.store import Store

BOOKMARK = WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "101"}})
ABSENT = ApiError("list", 404, "NotFound", "", None)


class Server:
    """Lists nothing, and its watches do one after the other as `streams` says; then there is silence.

    A stream brings events and ends, or is broken by an exception. None: it never begins.
    """

    def __init__(self, *streams: list[WatchEvent | Exception] | None) -> None:
        self.streams = iter(streams)
        self.listing: list[Exception] = []
        self.lists = 0
        self.asked: list[dict[str, Any]] = []
        self.idle = asyncio.Event()

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Page]:
        self.lists += 1
        if self.listing:
            raise self.listing.pop()
        yield Page([], "100")

    async def watch(
        self, _kind: Kind, _namespace: str | None, since: str, *, opened: Callable[[], None], **query: Any
    ) -> AsyncIterator[WatchEvent]:
        self.asked.append({"since": since, **query})
        stream = next(self.streams, None)
        if stream is None:
            self.idle.set()
            await asyncio.Event().wait()
        else:
            opened()
            for item in stream:
                if isinstance(item, Exception):
                    raise item
                yield item


class Ears:
    """What a reflector tells of itself."""

    def __init__(self) -> None:
        self.heard = 0
        self.restarts: list[str] = []

    def hear(self, resource: str) -> None:
        self.heard += 1

    def restart(self, resource: str, reason: str) -> None:
        self.restarts.append(reason)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_BACKOFF", "LONGEST_BACKOFF", "ABSENT_SECONDS"):
        monkeypatch.setattr(reflector, name, 0.001)


async def reflected(server: Server, kind: Kind = SERVICE, **more: Any) -> Ears:
    """What was told until the server fell silent."""
    ears = Ears()
    store = Store(lambda key: None)
    one = Reflector(server, kind, None, store, heard=ears.hear, restarted=ears.restart, **more)  # type: ignore[arg-type]
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(30):
        await server.idle.wait()
    task.cancel()
    return ears


async def test_a_stream_that_opens_and_comes_to_its_time_is_heard_and_no_restart() -> None:
    ears = await reflected(Server([], []))
    assert (ears.heard, ears.restarts) == (3, []), "a list and two streams"


async def test_a_bookmark_is_heard_and_the_next_stream_begins_there() -> None:
    server = Server([BOOKMARK])
    ears = await reflected(server)
    assert (ears.heard, ears.restarts) == (3, [])
    assert [query["since"] for query in server.asked] == ["100", "101"]


async def test_a_stream_that_does_not_begin_is_not_heard() -> None:
    ears = await reflected(Server())
    assert ears.heard == 1, "the list alone"


@pytest.mark.parametrize(
    ("error", "reason", "lists"),
    [
        (Unreachable("silent"), "broken", 1),
        (ApiError("watch", 500, "", "", None), "refused", 1),
        (ApiError("watch", 403, "", "", None), "refused", 2),
        (ApiError("watch", 410, "", "", None), "expired", 2),
    ],
)
async def test_what_went_wrong_is_a_restart_with_a_reason(error: Exception, reason: str, lists: int) -> None:
    server = Server([error])
    ears = await reflected(server)
    assert ears.restarts == [reason]
    assert server.lists == lists


async def test_an_optional_kind_that_is_absent_is_heard_of_and_no_restart() -> None:
    server = Server()
    server.listing = [ABSENT, ABSENT]
    ears = await reflected(server, POD_MONITOR, optional=True)
    assert (ears.heard, ears.restarts) == (3, []), "two answers that there is none, and a list once there is"


async def test_an_optional_kind_that_was_removed_and_comes_back_is_listed_anew() -> None:
    server = Server([ABSENT])
    ears = await reflected(server, POD_MONITOR, optional=True)
    assert ears.restarts == []
    assert server.lists == 2


async def test_a_stream_without_bookmarks_ends_before_it_is_taken_for_dead() -> None:
    server = Server(*([[]] * 50))
    await reflected(server, EVENT, bookmarks=False)
    assert max(query["seconds"] for query in server.asked) < cluster.SILENCE_SECONDS


async def test_after_a_stream_that_came_to_its_time_failures_long_ago_make_no_pause_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector, "LONGEST_BACKOFF", 10_000.0)
    ears = await reflected(Server(*([[Unreachable("cut")], []] * 24)))
    assert len(ears.restarts) == 24, "each pause twice the one before: hours"
