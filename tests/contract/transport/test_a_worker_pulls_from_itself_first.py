"""A transport that opens is not believed before a pull by it has come through: from the worker's own pool.

RDMA that opens and does not connect is none, and never becomes TCP where that is forbidden (I10).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from contract.transport.peers import Peer, settings
from diffusion_worker.transport import (
    Descriptor,
    EngineInitFailed,
    PeerDead,
    Probe,
    Slot,
    Transport,
    open_proven,
    pull_rate,
)
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.transport.open import open_transport
from diffusion_worker.transport.proof import prove
from diffusion_worker.transport.pull import Deadline

SMALLEST_POOL = 1 << 16


class Unconnected(MemoryTransport):
    """Opens, and fails every pull, as an engine does on an adapter without the connections that it needs."""

    closed = False

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        raise PeerDead(f"the engine could not read {descriptor.length} bytes from {descriptor.url}")

    async def close(self) -> None:
        self.closed = True
        await super().close()


class Machine:
    """Whose RDMA opens but does not connect."""

    def __init__(self) -> None:
        self.opened: list[Transport] = []

    async def open(self, *, protocol: str) -> Transport:
        transport = MemoryTransport(pool_size=SMALLEST_POOL, incarnation="a")
        if protocol != "tcp":
            transport = Unconnected(pool_size=SMALLEST_POOL, incarnation="a")
            transport.mode = "mooncake-rdma"
            # As `pull` refuses to mix modes before it asks for a byte.
            transport.pool.mode, transport.pool.url = transport.mode, "mooncake-rdma://10.0.0.7:15000/0+10000"
        self.opened.append(transport)
        return transport


@pytest.mark.parametrize("pool_size", [SMALLEST_POOL, 96 << 20])
async def test_what_was_measured_is_told_and_nothing_is_left(backend: str, pool_size: int) -> None:
    transport = await open_transport(**settings(backend, pool_size), incarnation=os.urandom(16).hex())
    try:
        proof = await prove(transport)
        assert 0 < proof.seconds < 30
        assert proof.bytes_per_second > 0
        assert transport.pool.slots_used == transport.pool.bytes_used == 0
        assert transport.failure is None
    finally:
        await transport.close()


async def test_first_contact_is_not_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, *[0.002] * 100])
    clock = [0.0]

    class Slow(MemoryTransport):
        async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
            clock[0] += next(times)
            return await super().fetch(descriptor, slot, deadline)

    monkeypatch.setattr("diffusion_worker.transport.proof.time.perf_counter", lambda: clock[0])
    transport = Slow(pool_size=SMALLEST_POOL, incarnation="a")
    proof = await prove(transport)
    assert proof.seconds == pytest.approx(0.002)
    assert proof.bytes_per_second == pytest.approx((SMALLEST_POOL // 2 - 64) / 0.002)
    await transport.close()


@pytest.mark.parametrize("protocol", ["auto", "rdma"])
async def test_rdma_that_opens_and_does_not_connect_never_starts_where_tcp_is_forbidden(protocol: str) -> None:
    machine = Machine()
    with pytest.raises(
        EngineInitFailed, match=r"opens, but a pull from this worker's own pool.*(?s:.*)gidIndex"
    ) as error:
        await open_proven(machine.open, protocol=protocol, fallback="Deny")
    assert "the engine could not read" in str(error.value)
    assert "reliable connections (RC)" in str(error.value)
    (transport,) = machine.opened
    assert isinstance(transport, Unconnected) and transport.closed


async def test_rdma_that_does_not_connect_is_tcp_where_that_will_do() -> None:
    machine = Machine()
    transport, _ = await open_proven(machine.open, protocol="auto", fallback="Allow")
    first, second = machine.opened
    assert isinstance(first, Unconnected) and first.closed
    assert transport is second
    await transport.close()


async def test_tcp_that_does_not_connect_has_nothing_to_fall_back_to() -> None:
    transports: list[Unconnected] = []

    async def opening(*, protocol: str) -> Transport:
        transports.append(Unconnected(pool_size=SMALLEST_POOL, incarnation="a"))
        return transports[-1]

    with pytest.raises(EngineInitFailed, match="connect to its own address"):
        await open_proven(opening, protocol="auto", fallback="Allow")
    (transport,) = transports
    assert transport.closed
    assert transport.pool.slots_used == 0


@pytest.mark.backends("mooncake-tcp")
async def test_an_engine_that_serves_nobody_is_found_out(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: its server is gone between opening and the first pull."""
    opening: Callable[..., Awaitable[Any]] = partial(
        open_transport,
        **{name: value for name, value in settings(backend, SMALLEST_POOL).items() if name != "protocol"},
    )

    async def open_and_lose(*, protocol: str) -> Transport:
        transport = await opening(protocol=protocol, incarnation="a")
        await transport._server.kill()
        return transport  # type: ignore[no-any-return]

    monkeypatch.setattr("diffusion_worker.transport.proof.PULL_SECONDS", 5.0)
    with pytest.raises(EngineInitFailed, match="a pull from this worker's own pool by it fails"):
        await open_proven(open_and_lose, protocol="tcp", fallback="Allow")


@pytest.mark.parametrize("pool_size", [SMALLEST_POOL, 1 << 20, 512 << 20])
def test_a_pool_spares_a_64th_for_its_probe_up_to_4_mib_and_nothing_that_small_ones_need(pool_size: int) -> None:
    pool = MemoryTransport(pool_size=pool_size, incarnation="a").pool
    offered = Probe(pool).offer()
    if pool_size == SMALLEST_POOL:
        assert offered is None
    else:
        assert offered is not None and offered.length == min(pool_size // 64, 4 << 20)
    assert pool.slots_used == pool.bytes_used == 0


def test_a_probe_is_offered_where_it_lies_until_the_pool_is_anothers() -> None:
    pool = MemoryTransport(pool_size=1 << 20, incarnation="a").pool
    probe = Probe(pool)
    first = probe.offer()
    assert first is not None and probe.offer() is first
    pool.reincarnate("b")
    filled = pool.lease((1 << 20) - 4096, "job")
    assert probe.offer() is None
    pool.release(filled)
    second = probe.offer()
    assert second is not None and second.incarnation == "b"
    assert pool.slots_used == 0


async def test_what_a_pull_from_a_peer_takes_is_measured_and_nothing_is_left(
    healthy: Peer, consumer: Transport
) -> None:
    descriptor = healthy.publish(7, 1 << 20)
    assert await pull_rate(consumer, descriptor, timeout=30.0) > 0
    assert consumer.pool.slots_used == 0
    healthy.release(descriptor.slot)
