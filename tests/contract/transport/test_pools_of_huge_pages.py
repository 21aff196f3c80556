"""Pools of huge pages: where the machine has some, they are what is pulled from; where it has none, that is said."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from contract.transport.peers import pulled, settings
from diffusion_worker.transport import EngineInitFailed, open_transport

PAGE = 2 << 20
POOL = 3 * PAGE + 5


def free() -> int:
    """Huge pages of 2 MiB."""
    found = re.search(r"HugePages_Free: +([0-9]+)", Path("/proc/meminfo").read_text())
    return int(found[1]) if found else 0


@pytest.mark.backends("tcp", "mooncake-tcp")
async def test_without_enough_of_them_a_worker_does_not_start_and_says_what_is_missing(backend: str) -> None:
    most = (free() + 1) * PAGE
    with pytest.raises(EngineInitFailed, match=r"no huge pages of 2Mi .*vm.nr_hugepages.*spec.transport.hugePages"):
        await open_transport(**settings(backend, most), incarnation="a", huge_pages="2Mi")


@pytest.mark.backends("shm", "memory")
async def test_a_back_end_that_has_none_refuses(backend: str) -> None:
    with pytest.raises(EngineInitFailed, match=r"has no huge pages: leave out spec.transport.hugePages"):
        await open_transport(**settings(backend, PAGE), incarnation="a", huge_pages="2Mi")


@pytest.mark.skipif(free() < 4, reason="this machine has no huge pages: sysctl vm.nr_hugepages=4")
@pytest.mark.backends("tcp", "mooncake-tcp")
async def test_a_pool_is_made_of_them_and_pulled_from(backend: str) -> None:
    before = free()
    transport = await open_transport(**settings(backend, POOL), incarnation=os.urandom(8).hex(), huge_pages="2Mi")
    try:
        assert transport.pool.size == 4 * PAGE
        assert free() == before - 4
        slot = transport.pool.lease(PAGE, "test")
        slot.payload[:] = bytes(range(256)) * (PAGE // 256)
        assert await pulled(transport, transport.pool.publish(slot, PAGE)) == slot.payload
    finally:
        await transport.close()
