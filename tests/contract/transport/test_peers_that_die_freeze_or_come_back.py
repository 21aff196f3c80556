"""Peers that die, freeze, restart and are fenced; pulls that are given up. What it costs, and whom."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time

import pytest

from contract.transport.peers import (
    MEETING,
    MOONCAKE,
    SLOWNESS,
    TALKING,
    Peer,
    StartPeer,
    eventually,
    here,
    pulled,
)
from contract.transport.producer import content
from diffusion_worker.transport import (
    Descriptor,
    OutOfRange,
    PeerDead,
    StaleDescriptor,
    TransferTimeout,
    Transport,
    TransportError,
)
from testbed import waiting

LARGE = 40 << 20
PAGE = 4096
WARM = [pytest.param(backend, True, id=f"{backend}-warm") for backend in here(TALKING)]
FIRST_CONTACT = [pytest.param(backend, False, id=f"{backend}-first contact") for backend in here(MEETING)]


async def test_a_killed_peer_is_dead_and_the_others_are_not(
    start_peer: StartPeer, healthy: Peer, consumer: Transport
) -> None:
    doomed = await start_peer()
    before, after, other = doomed.publish(1, 100_000), doomed.publish(2, 100_000), healthy.publish(3, 100_000)
    assert await pulled(consumer, before) == content(1, 100_000)
    await doomed.kill()
    for _ in range(2):
        with pytest.raises(PeerDead):
            await pulled(consumer, after)
    assert await pulled(consumer, other) == content(3, 100_000)
    healthy.release(other.slot)


async def test_a_peer_that_was_dead_before_first_contact_is_dead(start_peer: StartPeer, consumer: Transport) -> None:
    doomed = await start_peer()
    descriptor = doomed.publish(1, 1000)
    await doomed.kill()
    with pytest.raises(PeerDead):
        await pulled(consumer, descriptor)


async def test_a_peer_killed_during_a_pull_gives_all_bytes_or_an_error(
    start_peer: StartPeer, consumer: Transport
) -> None:
    doomed = await start_peer()
    descriptor = doomed.publish(4, LARGE)
    wanted = content(4, LARGE)
    assert await pulled(consumer, descriptor) == wanted

    async def pull_until_it_fails() -> TransportError:
        while True:
            try:
                assert await pulled(consumer, descriptor) == wanted
            except TransportError as error:
                return error

    pulling = asyncio.create_task(pull_until_it_fails())
    await eventually(lambda: consumer.pool.slots_used > 0)
    await doomed.kill()
    assert isinstance(await asyncio.wait_for(pulling, 30), PeerDead)


async def pull_and_cancel(consumer: Transport, descriptor: Descriptor) -> None:
    """When its first bytes have come, unless the back end is through at once."""
    slot = consumer.pool.lease(LARGE, "test")
    slot.payload[:PAGE] = bytes(PAGE)
    pulling = asyncio.create_task(consumer.pull(descriptor, slot, timeout=20))
    await waiting.eventually(lambda: pulling.done() or any(slot.payload[:PAGE]), 10, "the pull has begun", pause=0)
    pulling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pulling
    consumer.pool.release(slot)


async def test_a_cancelled_pull_lets_go_of_its_slot_and_the_next_one_works(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(5, LARGE)
    assert await pulled(consumer, descriptor) == content(5, LARGE)
    for _ in range(3):
        await pull_and_cancel(consumer, descriptor)
        await eventually(lambda: consumer.pool.slots_used == 0)
    assert await pulled(consumer, descriptor) == content(5, LARGE)
    healthy.release(descriptor.slot)


async def test_a_slot_is_not_leased_again_while_a_cancelled_pull_may_write_to_it(
    healthy: Peer, consumer: Transport
) -> None:
    """The next owner's bytes stay as they are."""
    descriptor = healthy.publish(6, LARGE)
    await pulled(consumer, descriptor)
    await pull_and_cancel(consumer, descriptor)
    next_slot = consumer.pool.lease(LARGE, "next")
    next_slot.payload[:] = bytes(LARGE)
    await eventually(lambda: consumer.pool.quarantined == 0)
    assert bytes(next_slot.payload) == bytes(LARGE)
    consumer.pool.release(next_slot)
    healthy.release(descriptor.slot)


@pytest.mark.parametrize(("backend", "warm"), [*WARM, *FIRST_CONTACT])
async def test_a_frozen_peer_costs_its_own_pulls_their_deadline_and_others_nothing(
    start_peer: StartPeer, healthy: Peer, consumer: Transport, warm: bool
) -> None:
    frozen = await start_peer()
    first, descriptor, other = frozen.publish(7, 1000), frozen.publish(8, LARGE), healthy.publish(9, 100_000)
    if warm:
        await pulled(consumer, first)
    await pulled(consumer, other)
    frozen.freeze()

    begun = time.monotonic()
    held_up = asyncio.create_task(pulled(consumer, descriptor, timeout=1.5))
    while not held_up.done():
        since = time.monotonic()
        assert await pulled(consumer, other) == content(9, 100_000)
        assert time.monotonic() - since < 1.0 * SLOWNESS
    with pytest.raises(TransferTimeout):
        await held_up
    assert 1.5 <= (time.monotonic() - begun) / SLOWNESS < 2.5

    # What the frozen peer still sends, or lets through, must not land in a slot that somebody else has by now.
    await eventually(lambda: consumer.pool.slots_used == 0)
    slot = consumer.pool.lease(LARGE, "next")
    slot.payload[:] = bytes(LARGE)
    frozen.thaw()
    assert frozen.publish(10, 10).incarnation == frozen.incarnation
    consumer.drop_peer(frozen.incarnation)
    assert await pulled(consumer, first) == content(7, 1000)
    assert bytes(slot.payload) == bytes(LARGE)
    consumer.pool.release(slot)
    healthy.release(other.slot)


@pytest.mark.backends("shm", "mooncake-rdma")
async def test_a_frozen_peers_memory_can_still_be_read(
    backend: str, start_peer: StartPeer, consumer: Transport
) -> None:
    """By a one-sided read, or as by one: liveness is the heartbeat's, not the transport's."""
    frozen = await start_peer()
    first, descriptor = frozen.publish(7, 1000), frozen.publish(11, 100_000)
    if backend in MEETING:
        await pulled(consumer, first)
    frozen.freeze()
    assert await pulled(consumer, descriptor, timeout=2) == content(11, 100_000)


@pytest.mark.backends("shm", "tcp", *MOONCAKE)
async def test_a_restarted_peer_is_another_one(start_peer: StartPeer, consumer: Transport) -> None:
    first = await start_peer()
    old = first.publish(12, 50_000)
    assert await pulled(consumer, old) == content(12, 50_000)
    await first.kill()
    second = await asyncio.to_thread(first.restarted)
    try:
        new = second.publish(13, 50_000)
        assert new.incarnation != old.incarnation
        for url in {old.url, new.url}:
            with pytest.raises((PeerDead, StaleDescriptor, OutOfRange)):
                await pulled(consumer, dataclasses.replace(old, url=url))
        assert await pulled(consumer, new) == content(13, 50_000)
    finally:
        await second.kill()


async def test_after_fencing_nothing_of_the_old_incarnation_can_be_pulled(
    start_peer: StartPeer, consumer: Transport
) -> None:
    peer = await start_peer()
    old = peer.publish(14, 50_000)
    assert await pulled(consumer, old) == content(14, 50_000)
    peer.reincarnate("another life")
    with pytest.raises(StaleDescriptor):
        await pulled(consumer, old)
    new = peer.publish(15, 50_000)
    assert new.incarnation == "another life"
    assert await pulled(consumer, new) == content(15, 50_000)


async def test_a_peer_can_be_forgotten_and_met_again(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(16, 50_000)
    for _ in range(3):
        assert await pulled(consumer, descriptor) == content(16, 50_000)
        begun = time.monotonic()
        consumer.drop_peer(descriptor.incarnation)
        consumer.drop_peer("never met")
        assert time.monotonic() - begun < 0.1
    healthy.release(descriptor.slot)


@pytest.mark.parametrize(("backend", "warm"), [*WARM, *FIRST_CONTACT])
async def test_forgetting_a_peer_ends_the_pulls_from_it(start_peer: StartPeer, consumer: Transport, warm: bool) -> None:
    frozen = await start_peer()
    descriptor = frozen.publish(17, 100_000)
    if warm:
        await pulled(consumer, descriptor)
    frozen.freeze()
    pulling = [asyncio.create_task(pulled(consumer, descriptor, timeout=30)) for _ in range(3)]
    await eventually(lambda: consumer.pool.slots_used == 3)
    await asyncio.sleep(0)
    consumer.drop_peer(descriptor.incarnation)
    for pull in pulling:
        with pytest.raises(PeerDead):
            await asyncio.wait_for(pull, 5)


async def test_the_event_loop_runs_on_while_peers_are_pulled_from_and_forgotten(
    healthy: Peer, consumer: Transport
) -> None:
    """Destroying an engine inside this process would hold the interpreter's lock for a second."""
    descriptor = healthy.publish(18, 16 << 20)
    longest, stop = 0.0, False

    async def tick() -> None:
        nonlocal longest
        while not stop:
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - begun)

    ticking = asyncio.create_task(tick())
    for _ in range(3):
        await pulled(consumer, descriptor)
        consumer.drop_peer(descriptor.incarnation)
        await eventually(lambda: consumer.pool.slots_used == 0)
    stop = True
    await ticking
    assert longest < 0.5 * SLOWNESS
    healthy.release(descriptor.slot)
