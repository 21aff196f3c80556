"""The queue never loses a key, never gives one to two workers, and pauses after failures."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from diffusion_operator.cluster.keys import Key
from diffusion_operator.reconcile.queue import FIRST_RETRY, LONGEST_RETRY, Queue

A, B = Key("ns", "a"), Key("ns", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def queue(clock: Clock, **options: Any) -> Queue:
    return Queue(clock=clock, jitter=lambda low, high: high, **options)


async def next_key(given: Queue) -> Key | None:
    task = asyncio.create_task(given.get())
    done, _ = await asyncio.wait({task}, timeout=0)
    for _ in range(3):
        if not done:
            done, _ = await asyncio.wait({task}, timeout=0)
    if done:
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


async def test_a_key_added_often_is_there_once() -> None:
    given = queue(Clock())
    for _ in range(5):
        given.add(A)
    given.add(B)
    assert len(given) == 2
    assert [await next_key(given), await next_key(given), await next_key(given)] == [A, B, None]


async def test_a_key_is_never_with_two_workers_and_comes_back_if_added_meanwhile() -> None:
    given = queue(Clock())
    given.add(A)
    assert await next_key(given) == A
    given.add(A)
    given.add(A)
    assert await next_key(given) is None
    given.done(A)
    assert await next_key(given) == A
    given.done(A)
    assert await next_key(given) is None


async def test_a_failed_key_comes_back_after_pauses_that_double_up_to_a_bound() -> None:
    clock = Clock()
    given = queue(clock)
    pauses = []
    for _ in range(16):
        given.add(A)
        assert await next_key(given) == A
        given.retry(A)
        given.done(A)
        began = clock.now
        pause = FIRST_RETRY
        while await next_key(given) is None:
            clock.now = began + pause
            pause *= 2
            assert pause < 10 * LONGEST_RETRY
        pauses.append(clock.now - began)
        given.done(A)
    assert pauses[:4] == pytest.approx([FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, 8 * FIRST_RETRY])
    assert max(pauses) <= 2 * LONGEST_RETRY
    given.succeeded(A)
    assert given.failures(A) == 0


async def test_the_servers_own_wish_to_wait_is_the_least_pause() -> None:
    clock = Clock()
    given = queue(clock)
    given.retry(A, at_least=30.0)
    clock.now = 29.9
    assert await next_key(given) is None
    clock.now = 30.0
    assert await next_key(given) == A


async def test_something_that_happens_ends_a_pause() -> None:
    given = queue(Clock())
    given.retry(A)
    given.add(A)
    assert await next_key(given) == A


async def test_nothing_that_happens_ends_a_pause_that_the_server_asked_for() -> None:
    clock = Clock()
    given = queue(clock)
    given.add(A)
    assert await next_key(given) == A
    given.add(A)
    given.retry(A, at_least=30.0)
    given.done(A)
    given.add(A)
    given.add_after(A, 5.0)
    given.add(B)
    assert await next_key(given) == B
    for clock.now in (5.0, 29.9):
        assert await next_key(given) is None
    clock.now = 30.1
    assert await next_key(given) == A
    given.done(A)
    given.add(A)
    assert await next_key(given) == A


async def test_of_two_later_times_the_earlier_one_counts() -> None:
    clock = Clock()
    given = queue(clock)
    given.add_after(A, 10.0)
    given.add_after(A, 2.0)
    given.add_after(A, 5.0)
    clock.now = 2.0
    assert await next_key(given) == A
    given.done(A)
    clock.now = 20.0
    assert await next_key(given) is None


async def test_a_waiting_worker_wakes_for_a_later_time() -> None:
    given = Queue()
    given.add_after(A, 0.02)
    assert await asyncio.wait_for(given.get(), 5) == A


async def test_ages_are_those_of_the_oldest() -> None:
    clock = Clock()
    given = queue(clock)
    given.add(A)
    given.add(B)
    clock.now = 3.0
    assert given.longest_waiting == 3.0
    assert await next_key(given) == A
    clock.now = 5.0
    assert await next_key(given) == B
    clock.now = 6.0
    assert (given.longest_working, given.unfinished_working, given.working) == (3.0, 4.0, 2)
    given.done(A)
    assert given.longest_working == 1.0


KEYS = st.sampled_from([A, B, Key("ns", "c"), Key("other", "a")])


class Histories(RuleBasedStateMachine):
    """Whatever is added, retried and worked on in whatever order: nothing is lost and nothing is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.queue = queue(self.clock)
        self.working: set[Key] = set()
        self.owed: set[Key] = set()
        """Added since they were last taken."""

    def teardown(self) -> None:
        self.loop.close()

    @rule(key=KEYS)
    def add(self, key: Key) -> None:
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=KEYS, seconds=st.floats(0, 50))
    def add_later(self, key: Key, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        self.owed.add(key)

    @rule()
    def take(self) -> None:
        key = self.loop.run_until_complete(next_key(self.queue))
        if key is not None:
            assert key not in self.working
            assert key in self.owed
            self.working.add(key)
            self.owed.discard(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), failed=st.booleans())
    def finish(self, data: st.DataObject, failed: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        if failed:
            self.queue.retry(key)
            self.owed.add(key)
        else:
            self.queue.succeeded(key)
        self.queue.done(key)
        self.working.discard(key)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_queue_knows_who_works(self) -> None:
        assert self.queue.working == len(self.working)

    @rule()
    def everything_owed_is_given_in_the_end(self) -> None:
        self.clock.now += 2 * LONGEST_RETRY
        for key in list(self.working):
            self.queue.done(key)
        self.working.clear()
        given: Counter[Key] = Counter()
        while (key := self.loop.run_until_complete(next_key(self.queue))) is not None:
            given[key] += 1
            self.queue.done(key)
            self.clock.now += 2 * LONGEST_RETRY
        assert set(given) == self.owed
        assert set(given.values()) <= {1}
        self.owed.clear()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
