"""Before anything depends on a transport, the worker pulls from its own pool by it, on the way of a peer's pull.

That a device opens and takes a pool says little of it: an adapter may have no connections of the kind that an engine
needs (AWS EFA), a firewall may take what a port was sent. A worker that finds so never registers. What lies between two
nodes is known by a pull from another's pool alone: each keeps a probe in its own for that.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import structlog

from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.devices import describe, devices
from diffusion_worker.transport.errors import EngineInitFailed, PoolFull, TransportError
from diffusion_worker.transport.interface import Transport
from diffusion_worker.transport.pool import PAGE, Pool
from diffusion_worker.transport.seal import SEAL_BYTES

LARGE: Final = 4 << 20
OTHER_POOL: Final = 16 << 20
SMALL: Final = PAGE - SEAL_BYTES
LEAST: Final = 3
PULLS: Final = 8
ENOUGH_SECONDS: Final = 0.05
PULL_SECONDS: Final = 30.0
# Of a pool, for its probe.
_SPARED: Final = 64
RDMA: Final = "mooncake-rdma"
_OWNER: Final = "proof"

log = structlog.get_logger()


@dataclass(frozen=True)
class Proof:
    """What a worker measured by pulling from itself: the fastest of several pulls."""

    bytes_per_second: float
    """Of the largest pull, of up to 4 MiB."""
    seconds: float
    """Of a pull of less than a page."""


async def open_proven(
    opening: Callable[..., Awaitable[Transport]],
    *,
    protocol: str,
    pulls: str = "",
    fallback: str,
    quiet: asyncio.Future[Any] | None = None,
) -> tuple[Transport, Proof]:
    """Open a transport and pull from it. `opening` takes keywords of `open_transport`, and has the others already.
    `quiet`: what else goes on meanwhile; it is waited for before anything is measured.

    `protocol` (auto, rdma or tcp) is that by which its pool is pulled from, `pulls` that of its inputs, if another.
    RDMA that does not connect is no RDMA: with fallback Allow, TCP is opened in its place. Raises EngineInitFailed.
    """
    if pulls:
        # What comes by another network can't be tried on a pool that is not served by it.
        other, _ = await open_proven(
            partial(opening, pool_size=OTHER_POOL, huge_pages=""), protocol=pulls, fallback=fallback, quiet=quiet
        )
        await other.close()
        pulls = "rdma" if other.mode == RDMA else "tcp"
    transport = await opening(protocol=protocol, **({"pulls": pulls} if pulls else {}))
    try:
        if quiet is not None:
            await quiet
        return transport, await prove(transport)
    except EngineInitFailed as error:
        await transport.close()
        if transport.mode != RDMA or fallback == "Deny":
            raise
        log.warning("rdma_fell_back_to_tcp", found=str(error))
        return await open_proven(opening, protocol="tcp", pulls=pulls, fallback=fallback, quiet=quiet)
    except BaseException:
        await transport.close()
        raise


async def prove(transport: Transport) -> Proof:
    """Raises EngineInitFailed, which says what may be missing."""
    pool = transport.pool
    # Source and destination lie in the one pool.
    large = min(LARGE, pool.size // (2 * PAGE) * PAGE - SEAL_BYTES)
    try:
        await _fastest_of_own(transport, SMALL, pulls=1)  # that makes the connection
        seconds = await _fastest_of_own(transport, SMALL)
        proof = Proof(large / await _fastest_of_own(transport, large), seconds)
    except TransportError as error:
        raise EngineInitFailed(_failure(transport.mode, error)) from error
    finally:
        transport.drop_peer(pool.incarnation)
    return proof


class Probe:
    """Bytes in a pool that peers may pull to try the way: up to 4 MiB, and a 64th of the pool. Of no task."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._published: Descriptor | None = None

    def offer(self) -> Descriptor | None:
        """Where they lie, for as long as the pool has its incarnation. None: the pool is too small, or full."""
        pool, published = self._pool, self._published
        nbytes = min(LARGE, pool.size // _SPARED // PAGE * PAGE) - SEAL_BYTES
        if nbytes <= 0 or (published is not None and published.incarnation == pool.incarnation):
            return published
        try:
            slot = pool.lease(nbytes, _OWNER)
        except PoolFull:
            return None
        pool.set_aside(slot)
        slot.payload[:] = np.random.default_rng().bytes(nbytes)
        self._published = pool.publish(slot, nbytes)
        return self._published


async def pull_rate(transport: Transport, descriptor: Descriptor, *, timeout: float) -> float:
    """Bytes a second of the fastest of several pulls of up to `timeout` seconds each. Raises TransportError."""
    return descriptor.payload_bytes / await _fastest(transport, descriptor, timeout=timeout)


async def _fastest_of_own(transport: Transport, nbytes: int, *, pulls: int = PULLS) -> float:
    """Seconds."""
    source = transport.pool.lease(nbytes, _OWNER)
    try:
        source.payload[:] = np.random.default_rng().bytes(nbytes)
        return await _fastest(transport, transport.pool.publish(source, nbytes), timeout=PULL_SECONDS, pulls=pulls)
    finally:
        transport.pool.release(source)


async def _fastest(transport: Transport, descriptor: Descriptor, *, timeout: float, pulls: int = PULLS) -> float:
    """Seconds."""
    pool, fastest = transport.pool, math.inf
    begun = time.perf_counter()
    for done in range(1, pulls + 1):
        slot = pool.lease(descriptor.payload_bytes, _OWNER)
        try:
            before = time.perf_counter()
            await transport.pull(descriptor, slot, timeout=timeout)
            fastest = min(fastest, time.perf_counter() - before)
        finally:
            pool.release(slot)
        if done >= LEAST and time.perf_counter() - begun > ENOUGH_SECONDS:
            break
    return fastest


def _failure(mode: str, error: TransportError) -> str:
    text = f"{mode} opens, but a pull from this worker's own pool by it fails: {error}. "
    if mode != RDMA:
        return text + "See whether the pod may connect to its own address at the ports of spec.transport.rpcPortRange"
    return (
        f"{text}RDMA devices here: {describe(devices())}. Mooncake needs reliable connections (RC) of verbs: see "
        "whether the adapter has them, whether spec.transport.rdma.gidIndex is a GID of each device, and name those "
        "that connect in rdma.devices; or set protocol: tcp"
    )
