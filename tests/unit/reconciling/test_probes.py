"""What makes an operator unhealthy: a loop that does not turn. What does not: an API server that is down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from diffusion_operator import app, health
from diffusion_operator.cluster import reflector
from diffusion_operator.cluster.client import ApiError, Page, Unreachable
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import PIPELINE, SERVICE, Kind
from diffusion_operator.cluster.reflector import Reflector
from diffusion_operator.cluster.store import Store
from diffusion_operator.cluster.watching import LAG_SECONDS, Watching
from diffusion_operator.metrics import Metrics
from diffusion_operator.settings import Settings
from testbed.waiting import always, eventually

KEY = Key("ns", "digits")


def pipeline(version: int, name: str = "digits") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": {**metadata, "generation": 1}, "spec": {"pipelineRef": {"name": "digits"}}}


class Listing:
    """An API server that lists these pipelines, and whose watches never bring anything."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)
        self.error: Exception | None = None
        self.watched = asyncio.Event()

    async def pages(self, kind: Kind, namespace: str | None, **_: str) -> AsyncIterator[Page]:
        if self.error is not None:
            raise self.error
        yield Page(self.items if kind is PIPELINE else [], "100")

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        self.watched.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        yield


def metrics() -> Metrics:
    return Metrics(concurrency=1, host="server", lease="lease")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestWatching:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def server(self) -> Listing:
        return Listing(pipeline(5))

    @pytest.fixture
    def watching(self, clock: Clock, server: Listing) -> Watching:
        store = Store(lambda key: None)
        found = Watching(server, store, (None,), clock=clock)  # type: ignore[arg-type]
        found._runs = True
        return found

    async def test_a_stream_has_time_to_tell_of_what_a_resync_saw(self, watching: Watching, clock: Clock) -> None:
        await watching.resync()
        clock.now += LAG_SECONDS
        assert watching.problem() == ""
        clock.now += 1
        assert watching.problem() == "the watch of DiffusionPipeline brings nothing any more"

    async def test_once_it_tells_all_is_well(self, watching: Watching, clock: Clock) -> None:
        await watching.resync()
        clock.now += LAG_SECONDS + 1
        watching._heard(PIPELINE, "MODIFIED", pipeline(5))
        assert watching.problem() == ""

    async def test_further_resyncs_give_it_no_more_time(
        self, watching: Watching, clock: Clock, server: Listing
    ) -> None:
        for version in range(5, 20):
            server.items = [pipeline(version)]
            await watching.resync()
            clock.now += LAG_SECONDS / 10
        assert watching.problem()

    async def test_of_what_was_deleted_since_it_need_not_tell(
        self, watching: Watching, clock: Clock, server: Listing
    ) -> None:
        await watching.resync()
        server.items = []
        clock.now += LAG_SECONDS / 2
        await watching.resync()
        clock.now += LAG_SECONDS
        assert watching.problem() == ""


class TestReflector:
    @pytest.fixture
    def server(self) -> Listing:
        return Listing()

    @pytest.fixture
    def turning(self, server: Listing) -> Reflector:
        return Reflector(server, SERVICE, None, Store(lambda key: None))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "error", [Unreachable("refused"), ApiError("watch", 500, "", "", None), ApiError("watch", 403, "", "", None)]
    )
    async def test_one_that_tries_again_and_again_turns(
        self, server: Listing, turning: Reflector, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reflector, "LONGEST_BACKOFF", 0.01)
        monkeypatch.setattr(reflector, "FIRST_BACKOFF", 0.01)
        server.error = error
        task = asyncio.create_task(turning.run())
        began = time.monotonic()
        await eventually(lambda: turning.turned >= began + 0.2, 10, "it turns")
        task.cancel()

    async def test_one_that_waits_as_the_server_asks_turns(self, server: Listing, turning: Reflector) -> None:
        server.error = ApiError("list", 429, "", "", 1000.0)
        task = asyncio.create_task(turning.run())
        await eventually(lambda: turning.turned >= time.monotonic() + 900, 10, "its wait is known")
        task.cancel()

    async def test_one_that_hears_nothing_does_not_turn(self, server: Listing, turning: Reflector) -> None:
        task = asyncio.create_task(turning.run())
        await server.watched.wait()
        turned = turning.turned
        await always(lambda: turning.turned == turned, 0.05, "it does not turn")
        task.cancel()


class TestOperator:
    @pytest.fixture
    async def operator(self) -> app.Operator:
        return app.Operator(Settings(), Listing(), metrics())  # type: ignore[arg-type]

    def problems(self, operator: app.Operator) -> Iterator[str]:
        return (problem for check in operator.health.alive if (problem := check()))

    async def test_a_watch_that_does_not_turn_is_named(self, operator: app.Operator) -> None:
        operator._synced = True
        operator._reflectors[0].turned = time.monotonic() - health.STUCK_SECONDS - 1
        kind = operator._reflectors[0].kind
        assert list(self.problems(operator)) == [f"the watch of {kind} is stuck"]

    async def test_a_queue_that_nobody_takes_from_is_told(
        self, operator: app.Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator.queue.add(KEY)
        assert list(self.problems(operator)) == []
        later = asyncio.get_running_loop().time() + health.STALLED_SECONDS + 1
        monkeypatch.setattr(operator.queue, "_clock", lambda: later)
        (problem,) = self.problems(operator)
        assert problem.startswith("a pipeline has waited for 30")

    async def test_a_reconcile_that_does_not_end_is_told(
        self, operator: app.Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator.queue.add(KEY)
        await operator.queue.get()
        later = asyncio.get_running_loop().time() + health.STALLED_SECONDS + 1
        monkeypatch.setattr(operator.queue, "_clock", lambda: later)
        assert len(list(self.problems(operator))) == 1

    async def test_it_is_not_ready_before_all_is_listed(self, operator: app.Operator) -> None:
        assert [check() for check in operator.health.ready] == ["waiting for the API server"]
