"""Pools of one process, for tests: a pull is a copy. Behaves like a one-sided read; closing it is dying."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from typing import Final

import numpy as np

from diffusion_worker.digest import digest_of
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import OutOfRange, PeerDead
from diffusion_worker.transport.pool import Pool, Slot, allocate
from diffusion_worker.transport.pull import Deadline, PullingTransport
from diffusion_worker.transport.seal import SEAL_BYTES

_POOLS: Final[weakref.WeakValueDictionary[str, Pool]] = weakref.WeakValueDictionary()


class MemoryTransport(PullingTransport):
    def __init__(self, *, pool_size: int, incarnation: str) -> None:
        url = f"memory://{secrets.token_hex(8)}"
        super().__init__(Pool(allocate(pool_size), incarnation=incarnation, mode="memory", url=url))
        _POOLS[url] = self.pool

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        await asyncio.sleep(0)  # other back ends let the event loop run too
        source = _POOLS.get(descriptor.url)
        if source is None:
            raise PeerDead(f"no pool at {descriptor.url}")
        if descriptor.address + descriptor.length > source.size:
            raise OutOfRange(f"{descriptor.length} bytes at {descriptor.address} of a pool of {source.size}")
        region = slot.region[: descriptor.length]
        np.copyto(
            np.frombuffer(region, np.uint8),
            np.frombuffer(source.view[descriptor.address : descriptor.address + descriptor.length], np.uint8),
        )
        return digest_of(region[SEAL_BYTES:])

    def drop_peer(self, incarnation: str) -> None:
        """Nothing is kept of a peer."""

    async def close(self) -> None:
        _POOLS.pop(self.pool.url, None)
