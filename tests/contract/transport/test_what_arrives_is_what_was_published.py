"""What arrives is what was published, or nothing does (I2)."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.transport.peers import MOONCAKE, Peer, pulled
from contract.transport.producer import content
from diffusion_worker import payload
from diffusion_worker.transport import (
    Descriptor,
    DigestMismatch,
    ModeMismatch,
    OutOfRange,
    PeerDead,
    PoolFull,
    SlotLost,
    StaleDescriptor,
    TooLarge,
    Transport,
    from_wire,
    to_wire,
)


@pytest.fixture(autouse=True)
def released(healthy: Peer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives back what the test published."""
    published: list[int] = []
    for name in ("publish", "publish_file"):
        original = getattr(healthy, name)

        def publish(*args: Any, original: Any = original) -> Descriptor:
            descriptor: Descriptor = original(*args)
            published.append(descriptor.slot)
            return descriptor

        monkeypatch.setattr(healthy, name, publish)
    yield published
    for slot in published:
        healthy.release(slot)


async def test_payloads_from_one_byte_to_64_mib_arrive_unchanged(healthy: Peer, consumer: Transport) -> None:
    for seed, nbytes in enumerate((1, 63, 4096 - 64, 4096, 65_537, 1 << 20, (16 << 20) + 3, 64 << 20)):
        descriptor = healthy.publish(seed, nbytes)
        assert await pulled(consumer, descriptor) == content(seed, nbytes), nbytes


async def test_many_tensors_in_one_payload_come_back_as_they_were(
    healthy: Peer, consumer: Transport, tmp_path: Path
) -> None:
    values = {f"tensor {i}": torch.arange(i * 7, dtype=torch.float32).to(torch.bfloat16) for i in range(300)}
    plan = payload.measure(values)
    written = bytearray(plan.nbytes)
    payload.write(plan, memoryview(written))
    (tmp_path / "payload").write_bytes(written)

    descriptor = healthy.publish_file(tmp_path / "payload")
    slot = consumer.pool.lease(descriptor.payload_bytes, "test")
    await consumer.pull(descriptor, slot, timeout=20)
    read = payload.read(slot.payload)
    consumer.pool.release(slot)

    assert read.keys() == values.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in values.items())  # type: ignore[arg-type]


async def test_eight_pulls_at_once_do_not_mix(healthy: Peer, consumer: Transport) -> None:
    sizes = [1, 5_000, 70_000, 1 << 20, 2 << 20, 3 << 20, 5 << 20, 6 << 20]
    descriptors = [healthy.publish(100 + i, nbytes) for i, nbytes in enumerate(sizes)]
    arrived = await asyncio.gather(*(pulled(consumer, descriptor) for descriptor in descriptors))
    assert arrived == [content(100 + i, nbytes) for i, nbytes in enumerate(sizes)]


async def test_a_descriptor_survives_the_way_through_protobuf(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(1, 1000)
    message = to_wire(descriptor, generation="5f7b9c")
    received = from_wire(type(message).FromString(message.SerializeToString()))
    assert received == descriptor
    assert message.generation == "5f7b9c"
    assert await pulled(consumer, received) == content(1, 1000)


async def test_the_same_payload_can_be_pulled_again(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(2, 100_000)
    assert await pulled(consumer, descriptor) == await pulled(consumer, descriptor) == content(2, 100_000)


async def test_the_seal_is_gone_from_the_slot_that_was_pulled_into(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(3, 100)
    slot = consumer.pool.lease(descriptor.payload_bytes + 1000, "test")
    await consumer.pull(descriptor, slot, timeout=20)
    assert bytes(slot.region[:64]) == bytes(64)
    assert slot.nbytes == slot.payload.nbytes == 100
    consumer.pool.release(slot)


async def test_a_flipped_byte_is_pulled_once_more_and_then_refused(
    healthy: Peer, consumer: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = count_fetches(consumer, monkeypatch)
    descriptor = healthy.publish(4, 200_000)
    healthy.flip(descriptor.slot)
    with pytest.raises(DigestMismatch, match=f"slot {descriptor.slot} generation {descriptor.slot_generation}"):
        await pulled(consumer, descriptor)
    assert len(fetches) == 2


async def test_a_byte_that_was_wrong_only_once_does_no_harm(
    healthy: Peer, consumer: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = healthy.publish(5, 200_000)
    healthy.flip(descriptor.slot)
    fetches = count_fetches(consumer, monkeypatch, lambda: healthy.flip(descriptor.slot))
    assert await pulled(consumer, descriptor) == content(5, 200_000)
    assert len(fetches) == 2


async def test_a_released_slot_is_stale(healthy: Peer, consumer: Transport, released: list[int]) -> None:
    descriptor = healthy.publish(6, 5_000)
    healthy.release(released.pop())
    with pytest.raises(StaleDescriptor):
        await pulled(consumer, descriptor)


async def test_a_slot_that_was_leased_again_is_stale_and_its_new_content_is_not(
    healthy: Peer, consumer: Transport, released: list[int]
) -> None:
    old = healthy.publish(7, 5_000)
    healthy.release(released.pop())
    new = healthy.publish(8, 5_000)
    assert (new.slot, new.address) == (old.slot, old.address)
    assert new.slot_generation > old.slot_generation
    with pytest.raises(StaleDescriptor):
        await pulled(consumer, old)
    assert await pulled(consumer, new) == content(8, 5_000)


async def test_what_lies_outside_the_pool_is_refused_and_the_peer_goes_on(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(9, 10_000)
    for wrong in (
        dataclasses.replace(descriptor, address=descriptor.address + (1 << 40)),
        dataclasses.replace(descriptor, address=descriptor.address + (96 << 20) - 4096),
        dataclasses.replace(descriptor, address=(1 << 64) - 4096),
    ):
        with pytest.raises(OutOfRange):
            await pulled(consumer, wrong)
    assert await pulled(consumer, descriptor) == content(9, 10_000)


async def test_a_place_in_the_pool_that_is_not_the_slots_is_refused(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(10, 10_000)
    for wrong in (
        dataclasses.replace(descriptor, address=descriptor.address + 4096),
        dataclasses.replace(descriptor, length=descriptor.length - 1),
        dataclasses.replace(descriptor, slot=descriptor.slot + 1),
        dataclasses.replace(descriptor, slot=1 << 31),
        dataclasses.replace(descriptor, slot_generation=descriptor.slot_generation + 1),
        dataclasses.replace(descriptor, incarnation="somebody else"),
    ):
        with pytest.raises((StaleDescriptor, OutOfRange)):
            await pulled(consumer, wrong)


async def test_a_payload_longer_than_the_slot_is_refused_before_anything_is_read(
    healthy: Peer, consumer: Transport
) -> None:
    descriptor = healthy.publish(11, 10_000)
    slot = consumer.pool.lease(1_000, "test")
    before = bytes(slot.region)
    with pytest.raises(OutOfRange, match="for a slot of 4096"):
        await consumer.pull(descriptor, slot, timeout=20)
    with pytest.raises(OutOfRange):
        await consumer.pull(dataclasses.replace(descriptor, length=63), slot, timeout=20)
    assert bytes(slot.region) == before
    consumer.pool.release(slot)


async def test_another_mode_is_refused(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(12, 100)
    other = next(mode for mode in MOONCAKE if mode != descriptor.mode)
    for wrong in (
        dataclasses.replace(descriptor, mode=other),
        dataclasses.replace(descriptor, url=f"{other}://127.0.0.1:20000/1000+1000"),
        dataclasses.replace(descriptor, url="127.0.0.1:20000"),
    ):
        with pytest.raises(ModeMismatch, match=r"spec\.transport"):
            await pulled(consumer, wrong)


@pytest.mark.parametrize(("backend", "other"), [("mooncake-tcp", "[::1]"), ("mooncake-tcp-ipv6", "127.0.0.1")])
async def test_mooncake_meets_nobody_by_the_other_version_of_ip(healthy: Peer, consumer: Transport, other: str) -> None:
    descriptor = healthy.publish(15, 100)
    port_and_pool = descriptor.url.rpartition(":")[2]
    with pytest.raises(ModeMismatch, match=r"IPv[46].*this worker by IPv[46].*--node-ip.*backend: tcp"):
        await pulled(consumer, dataclasses.replace(descriptor, url=f"{descriptor.mode}://{other}:{port_and_pool}"))
    assert await pulled(consumer, descriptor) == content(15, 100), "by its own"


async def test_a_url_that_makes_no_sense_is_refused(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(13, 100)
    for tail in ("", "nonsense", "../../etc/passwd", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:0/0+0", "a b:1/1+1"):
        with pytest.raises((OutOfRange, PeerDead)):
            await pulled(consumer, dataclasses.replace(descriptor, url=f"{descriptor.mode}://{tail}"))


async def test_a_slot_that_was_given_back_is_not_written_to(healthy: Peer, consumer: Transport) -> None:
    descriptor = healthy.publish(14, 100)
    slot = consumer.pool.lease(100, "test")
    consumer.pool.release(slot)
    with pytest.raises(SlotLost):
        await consumer.pull(descriptor, slot, timeout=20)


async def test_the_pool_says_when_it_is_full_and_when_it_is_too_small(consumer: Transport) -> None:
    size = consumer.pool.size
    with pytest.raises(TooLarge, match=f"{size} bytes.*poolSize"):
        consumer.pool.lease(size, "job")
    first = consumer.pool.lease(size - 64, "job")
    with pytest.raises(PoolFull, match="1 of"):
        consumer.pool.lease(1, "job")
    consumer.pool.release(first)
    consumer.pool.release(consumer.pool.lease(1, "job"))


def count_fetches(consumer: Any, monkeypatch: pytest.MonkeyPatch, after: Any = lambda: None) -> list[int]:
    """Digests that the back end brought, with something to do after each."""
    fetches: list[int] = []
    fetch = consumer.fetch

    async def counted(*args: Any) -> int:
        digest: int = await fetch(*args)
        fetches.append(digest)
        after()
        return digest

    monkeypatch.setattr(consumer, "fetch", counted)
    return fetches
