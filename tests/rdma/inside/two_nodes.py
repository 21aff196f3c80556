"""In the near guest: pulls across nodes by RDMA, and the link between them cut in the middle of one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from contract.transport.peers import eventually, pulled, settings
from contract.transport.producer import content
from diffusion_worker.transport import Descriptor, PeerDead, TransferTimeout, Transport, open_transport
from rdma.inside.device import packets_received
from rdma.inside.far_node import Far
from testbed.waiting import always

ADDRESS = "10.78.0.2"
SEED, NBYTES = 1, 40 << 20
PACKET = 4096
PULL_SECONDS = 60.0
SLACK_SECONDS = 2.5


@pytest.fixture(scope="module")
def far() -> Far:
    return Far()


@pytest.fixture
async def near() -> AsyncIterator[Transport]:
    transport = await open_transport(**settings("mooncake-rdma") | {"host": ADDRESS}, incarnation=os.urandom(16).hex())
    yield transport
    await transport.close()


@pytest.fixture
def cable() -> Iterator[Callable[[bool], None]]:
    """False: nothing that this node sends arrives any more, and nobody is told. True: as before."""
    now_whole = True

    def set_cable(whole: bool) -> None:
        nonlocal now_whole
        rule = ["del"] if whole else ["replace"]
        loss = [] if whole else ["netem", "loss", "100%"]
        subprocess.run(["tc", "qdisc", *rule, "dev", "eth0", "root", *loss], check=True, timeout=10)
        now_whole = whole

    # The kernel's module and the program are loaded now, which takes as long as a pull.
    set_cable(False)
    set_cable(True)
    yield set_cable
    if not now_whole:
        set_cable(True)


async def published(far: Far) -> Descriptor:
    return Descriptor(**await far.ask(do="publish", seed=SEED, nbytes=NBYTES))


@pytest.fixture
async def descriptor(far: Far) -> AsyncIterator[Descriptor]:
    found = await published(far)
    yield found
    await far.ask(do="release", slot=found.slot)


async def test_a_payload_comes_from_another_node(
    near: Transport, descriptor: Descriptor, report: Callable[[str], None]
) -> None:
    before = packets_received()
    assert await pulled(near, descriptor, PULL_SECONDS) == content(SEED, NBYTES)
    assert packets_received() - before >= NBYTES / PACKET
    begun = time.monotonic()
    await pulled(near, descriptor, PULL_SECONDS)
    report(f"{NBYTES / 1e6 / (time.monotonic() - begun):.0f} MB/s, first contact made before")


async def test_a_cut_link_costs_the_pull_its_deadline_and_the_slot_its_quarantine(
    near: Transport, descriptor: Descriptor, cable: Callable[[bool], None]
) -> None:
    await pulled(near, descriptor, PULL_SECONDS)
    slot = near.pool.lease(descriptor.payload_bytes, "test")
    slot.payload[:] = bytes(NBYTES)
    begun = time.monotonic()
    pulling = asyncio.create_task(near.pull(descriptor, slot, timeout=5))
    await eventually(lambda: slot.region[NBYTES // 8 : NBYTES // 8 + PACKET].tobytes() != bytes(PACKET))
    cable(False)
    # Which of the two depends on how soon the engine gives up its own tries.
    with pytest.raises((TransferTimeout, PeerDead), match=f"{descriptor.length} bytes"):
        await pulling
    assert time.monotonic() - begun < 5 + SLACK_SECONDS
    near.pool.release(slot)
    assert (near.pool.quarantined, near.pool.slots_used) == (1, 1)

    # The end of the engine's process is the end of the quarantine: nothing lands any more, link or no link.
    await eventually(lambda: near.pool.slots_used == 0)
    heir = near.pool.lease(descriptor.payload_bytes, "next")
    assert heir.offset == slot.offset
    heir.payload[:] = bytes(NBYTES)
    cable(True)
    await always(lambda: heir.payload.tobytes() == bytes(NBYTES), 8, "nothing lands in it", pause=0.5)
    near.pool.release(heir)
    assert await pulled(near, descriptor, PULL_SECONDS) == content(SEED, NBYTES)


async def test_a_node_whose_port_was_down_says_that_its_pool_is_lost_and_a_new_pool_can_be_pulled_from(
    far: Far, near: Transport
) -> None:
    lost = await published(far)
    await pulled(near, lost, PULL_SECONDS)
    await far.ask(do="set_card", state="down")
    await far.ask(do="set_card", state="up")
    assert "rxe0" in (await far.ask(do="wait_for_failure"))["failure"]
    # So it is: the port is up, the process runs, and still no pull comes through, by whatever engine.
    for _ in range(2):
        with pytest.raises(PeerDead):
            await pulled(near, lost, PULL_SECONDS)
    await far.ask(do="renew")
    renewed = await published(far)
    assert await pulled(near, renewed, PULL_SECONDS) == content(SEED, NBYTES)
    assert near.failure is None


async def test_the_far_node_ends(far: Far) -> None:
    await far.ask(do="end")
