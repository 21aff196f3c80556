"""A commit that takes longer than anybody waits for it: it is found out later what became of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, event

from contract.jobstore.records import record
from diffusion_router.store import DuplicateKey, JobStore, OutcomeUnknown, StoreUnavailable

DEADLINE = 20.0


class SlowDisk:
    """Holds up every commit of a store until it is told to go on."""

    def __init__(self, engine: Engine) -> None:
        self.reached = threading.Event()
        self.may_go_on = threading.Event()
        self.fails = False
        event.listen(engine, "commit", self._commit)

    def _commit(self, _connection: object) -> None:
        self.reached.set()
        assert self.may_go_on.wait(DEADLINE)
        if self.fails:
            raise OSError(28, "No space left on device")


@pytest.fixture
async def hasty(url: str) -> AsyncIterator[JobStore]:
    """A store for which nobody waits long."""
    store = await JobStore.open(url, timeout=1.0)
    yield store
    await store.close()


@pytest.fixture
def disk(hasty: JobStore) -> Iterator[SlowDisk]:
    disk = SlowDisk(hasty._engine)
    yield disk
    disk.may_go_on.set()


async def test_a_commit_that_lands_late_is_told_when_it_has(hasty: JobStore, disk: SlowDisk) -> None:
    words = r"did not commit within 1 s; whether it still will is not known"
    with pytest.raises(OutcomeUnknown, match=words) as late:
        await hasty.add([record("a")])
    disk.may_go_on.set()
    await asyncio.wait_for(late.value.outcome, DEADLINE)
    assert await hasty.get("a") == record("a")


async def test_a_commit_that_fails_late_is_told_too(hasty: JobStore, disk: SlowDisk) -> None:
    disk.fails = True
    with pytest.raises(OutcomeUnknown) as late:
        await hasty.add([record("a")])
    disk.may_go_on.set()
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        await asyncio.wait_for(late.value.outcome, DEADLINE)
    assert await hasty.get("a") is None


async def test_a_duplicate_that_is_found_late_is_told_as_one(hasty: JobStore, disk: SlowDisk) -> None:
    disk.may_go_on.set()
    await hasty.add([record("a", key="k")])
    disk.may_go_on.clear()
    disk.reached.clear()
    first = asyncio.create_task(hasty.add([record("b")]))
    await asyncio.to_thread(disk.reached.wait, DEADLINE)
    with pytest.raises(OutcomeUnknown):
        await first
    disk.may_go_on.set()
    with pytest.raises(DuplicateKey):
        await hasty.add([record("c", key="k")])


async def test_a_write_that_still_waits_for_its_turn_is_taken_back(hasty: JobStore, disk: SlowDisk) -> None:
    first = asyncio.create_task(hasty.add([record("a")]))
    await asyncio.to_thread(disk.reached.wait, DEADLINE)
    with pytest.raises(StoreUnavailable, match=r"did not commit within 1 s\. Check its disk") as refused:
        await hasty.add([record("b")])
    assert not isinstance(refused.value, OutcomeUnknown)
    disk.may_go_on.set()
    with pytest.raises(OutcomeUnknown) as late:
        await first
    await asyncio.wait_for(late.value.outcome, DEADLINE)
    await hasty.add([record("c")])
    assert [found.id for found in await hasty.list()] == ["c", "a"]


async def test_a_caller_that_goes_away_changes_nothing(hasty: JobStore, disk: SlowDisk) -> None:
    adding = asyncio.create_task(hasty.add([record("a")]))
    await asyncio.to_thread(disk.reached.wait, DEADLINE)
    adding.cancel()
    disk.may_go_on.set()
    await hasty.add([record("b")])
    assert [found.id for found in await hasty.list()] == ["b", "a"]
