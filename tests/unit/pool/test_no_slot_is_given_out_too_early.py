"""The pool's bookkeeping under any order of events: no overlap, nothing lost, nothing given out too early."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from diffusion_worker.transport import Descriptor, OutOfRange, Pool, PoolFull, Slot, SlotLost, TooLarge
from diffusion_worker.transport.extents import Extents
from diffusion_worker.transport.pool import PAGE, allocate
from diffusion_worker.transport.seal import SEAL_BYTES, Seal, fingerprint

PAGES = 32
SLOTS = 8


def make(slots: int = SLOTS, pages: int = PAGES) -> Pool:
    return Pool(allocate(pages * PAGE), incarnation="first", mode="memory", url="memory://x", slots=slots)


class PoolMachine(RuleBasedStateMachine):
    """Against a model that is nothing but the list of live slots."""

    leased = Bundle("leased")
    ready = Bundle("ready")
    quarantined = Bundle("quarantined")
    lost = Bundle("lost")

    def __init__(self) -> None:
        super().__init__()
        self.pool = make()
        self.live: dict[int, Slot] = {}
        self.published: dict[int, Descriptor] = {}
        self.in_quarantine: set[int] = set()
        self.generations: dict[int, int] = {}

    @rule(target=leased, nbytes=st.integers(0, PAGES * PAGE // 2))
    def lease(self, nbytes: int) -> Any:
        free = PAGES * PAGE - sum(slot.capacity for slot in self.live.values())
        try:
            slot = self.pool.lease(nbytes, "job")
        except PoolFull:
            assert len(self.live) == SLOTS or nbytes + SEAL_BYTES > self.largest_gap()
            assert free == PAGES * PAGE - self.pool.bytes_used
            return None
        assert slot.capacity % PAGE == 0
        assert slot.capacity - PAGE < nbytes + SEAL_BYTES <= slot.capacity
        assert slot.payload.nbytes == nbytes
        assert slot.generation > self.generations.get(slot.index, 0)
        assert bytes(slot.region[:SEAL_BYTES]) == bytes(SEAL_BYTES)
        for other in self.live.values():
            assert slot.offset + slot.capacity <= other.offset or other.offset + other.capacity <= slot.offset
        self.generations[slot.index] = slot.generation
        self.live[slot.index] = slot
        slot.payload[:] = bytes([slot.generation % 251]) * nbytes
        return slot

    @rule(target=ready, slot=consumes(leased))
    def publish(self, slot: Slot | None) -> Any:
        if slot is None:
            return None
        descriptor = self.pool.publish(slot, slot.nbytes)
        assert Seal.unpack(slot.region) == Seal(
            fingerprint(self.pool.incarnation), slot.index, slot.generation, descriptor.length, descriptor.digest
        )
        self.published[slot.index] = descriptor
        return slot

    @rule(target=lost, slot=st.one_of(consumes(leased), consumes(ready)))
    def release(self, slot: Slot | None) -> Any:
        if slot is not None:
            self.pool.release(slot)
            self.forget(slot)
        return slot

    @rule(target=quarantined, slot=consumes(leased))
    def quarantine(self, slot: Slot | None) -> Any:
        if slot is not None:
            self.pool.quarantine(slot)
            self.in_quarantine.add(slot.index)
            self.pool.release(slot)  # its owner's; must not free it
        return slot

    @rule(target=lost, slot=consumes(quarantined))
    def end_quarantine(self, slot: Slot | None) -> Any:
        if slot is not None:
            self.pool.end_quarantine(slot)
            self.in_quarantine.discard(slot.index)
            self.forget(slot)
        return slot

    @rule(slot=lost)
    def nothing_can_be_done_with_a_slot_that_was_given_back(self, slot: Slot | None) -> None:
        if slot is None:
            return
        self.pool.release(slot)
        self.pool.quarantine(slot)
        self.pool.end_quarantine(slot)
        assert not self.pool.holds(slot)
        with pytest.raises(SlotLost):
            self.pool.publish(slot, 0)

    @invariant()
    def what_is_used_is_what_is_live(self) -> None:
        assert self.pool.slots_used == len(self.live)
        assert self.pool.bytes_used == sum(slot.capacity for slot in self.live.values())
        assert self.pool.quarantined == len(self.in_quarantine)

    @invariant()
    def free_pages_are_merged(self) -> None:
        assert max((length for _, length in self.pool._extents.free), default=0) * PAGE == self.largest_gap()
        for (start, length), (following, _) in zip(self.pool._extents.free, self.pool._extents.free[1:], strict=False):
            assert start + length < following

    @invariant()
    def published_bytes_stay(self) -> None:
        for index, descriptor in self.published.items():
            slot = self.live[index]
            assert bytes(slot.payload) == bytes([slot.generation % 251]) * slot.nbytes
            found = self.pool.find(fingerprint(descriptor.incarnation), index, descriptor.slot_generation)
            assert found is slot

    def forget(self, slot: Slot) -> None:
        del self.live[slot.index]
        self.published.pop(slot.index, None)
        assert self.pool.find(fingerprint("first"), slot.index, slot.generation) is None

    def largest_gap(self) -> int:
        ends = sorted((slot.offset, slot.offset + slot.capacity) for slot in self.live.values())
        starts = [0, *(end for _, end in ends)]
        stops = [*(start for start, _ in ends), PAGES * PAGE]
        return max(stop - start for start, stop in zip(starts, stops, strict=True))


PoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPoolUnderAnyHistory = PoolMachine.TestCase


def test_after_reincarnation_published_slots_are_free_and_leased_ones_wait_for_their_owner() -> None:
    pool = make()
    ready, writing, held = pool.lease(10, "a"), pool.lease(10, "b"), pool.lease(10, "c")
    descriptor = pool.publish(ready, 10)
    pool.quarantine(held)
    pool.reincarnate("second")
    assert pool.slots_used == 2
    assert pool.find(fingerprint("first"), descriptor.slot, descriptor.slot_generation) is None
    assert bytes(ready.region[:SEAL_BYTES]) == bytes(SEAL_BYTES)
    with pytest.raises(SlotLost, match="of b is no longer its own"):
        pool.publish(writing, 10)
    pool.release(ready)
    pool.release(writing)
    assert (pool.slots_used, pool.quarantined) == (1, 1)
    pool.end_quarantine(held)
    assert pool.slots_used == 0
    fresh = pool.publish(pool.lease(10, "d"), 10)
    assert (fresh.incarnation, fresh.slot_generation > 1) == ("second", True)


def test_a_published_slot_is_not_published_twice() -> None:
    pool = make()
    slot = pool.lease(10, "job")
    pool.publish(slot, 10)
    with pytest.raises(SlotLost):
        pool.publish(slot, 10)


def test_publishing_less_than_was_leased_shortens_the_payload() -> None:
    pool = make()
    slot = pool.lease(PAGE, "job")
    assert pool.publish(slot, 5).payload_bytes == slot.payload.nbytes == 5
    with pytest.raises(OutOfRange):
        pool.publish(pool.lease(10, "job"), PAGE)


def test_a_payload_that_never_fits_is_told_from_one_that_does_not_fit_now() -> None:
    pool = make()
    with pytest.raises(TooLarge, match="poolSize"):
        pool.lease(PAGES * PAGE, "job")
    everything = pool.lease(PAGES * PAGE - SEAL_BYTES, "job")
    with pytest.raises(PoolFull):
        pool.lease(0, "job")
    pool.release(everything)
    with pytest.raises(OutOfRange):
        pool.lease(-1, "job")


def test_the_slot_table_is_bounded() -> None:
    pool = make(slots=2)
    first = pool.lease(1, "a")
    pool.lease(1, "b")
    with pytest.raises(PoolFull, match="2 of 2 slots"):
        pool.lease(1, "c")
    pool.release(first)
    assert pool.lease(1, "c").generation == 2


def test_a_slot_that_is_set_aside_is_not_counted_and_nobody_else_gets_it() -> None:
    pool = make(slots=2)
    aside = pool.lease(2 * PAGE, "probe")
    pool.set_aside(aside)
    assert (pool.slots_used, pool.bytes_used) == (0, 0)
    job = pool.lease(1, "job")
    assert (pool.slots_used, pool.bytes_used) == (1, PAGE)
    with pytest.raises(PoolFull, match="2 of 2 slots"):
        pool.lease(1, "job")
    pool.publish(aside, 1)
    pool.reincarnate("second")
    pool.release(job)
    assert (pool.slots_used, pool.bytes_used) == (0, 0)
    assert pool.lease(PAGES * PAGE - SEAL_BYTES, "job").capacity == PAGES * PAGE


def test_threads_never_share_a_page() -> None:
    pool = make(slots=64, pages=64)
    torn: list[str] = []

    def work(name: int) -> None:
        for round_ in range(300):
            try:
                slot = pool.lease(PAGE * (1 + round_ % 3), str(name))
            except PoolFull:
                continue
            mark = bytes([name]) * slot.nbytes
            slot.payload[:] = mark
            pool.publish(slot, slot.nbytes)
            if bytes(slot.payload) != mark:
                torn.append(f"{name} in round {round_}")
            pool.release(slot)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert (pool.slots_used, pool.bytes_used) == (0, 0)
    assert pool._extents.free == ((0, 64),)


def test_extents_give_the_lowest_run_and_merge_on_both_sides() -> None:
    extents = Extents(10)
    assert [extents.take(3), extents.take(3), extents.take(3), extents.take(2)] == [0, 3, 6, None]
    extents.give(0, 3)
    extents.give(6, 3)
    assert extents.free == ((0, 3), (6, 4))
    extents.give(3, 3)
    assert extents.free == ((0, 10),)
    assert Extents(0).take(1) is None
