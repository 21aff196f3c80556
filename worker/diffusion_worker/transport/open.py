"""From settings to a transport: which back end, and RDMA or TCP."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import structlog

from diffusion_worker.transport.devices import Openable, describe, devices, opens
from diffusion_worker.transport.engine_process import EngineSettings
from diffusion_worker.transport.errors import EngineInitFailed
from diffusion_worker.transport.interface import Transport
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.transport.mooncake import MooncakeTransport
from diffusion_worker.transport.shm import ShmTransport
from diffusion_worker.transport.tcp import TcpTransport

BACKENDS: Final = ("mooncake", "tcp", "shm", "memory")
PROTOCOLS: Final = ("auto", "rdma", "tcp")
FALLBACKS: Final = ("Allow", "Deny")

log = structlog.get_logger()


def choose_network(
    protocol: str,
    fallback: str,
    *,
    allowed: Collection[str] = frozenset(),
    root: Path = Path("/"),
    openable: Openable = opens,
) -> tuple[str, str]:
    """For Mooncake: ("rdma", names of devices) or ("tcp", ""). `allowed` are the devices to choose from; empty: all.

    With fallback Deny only protocol tcp, which asks for TCP in so many words, gets TCP. Raises EngineInitFailed.
    """
    if protocol not in PROTOCOLS or fallback not in FALLBACKS:
        raise EngineInitFailed(
            f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}, or fallback {fallback!r} not one of "
            f"{', '.join(FALLBACKS)}"
        )
    if protocol == "tcp":
        return "tcp", ""
    found = devices(root, openable, allowed)
    if usable := [device.name for device in found if device.usable]:
        return "rdma", ",".join(usable)
    if fallback == "Deny":
        raise EngineInitFailed(
            f"no usable RDMA device, and spec.transport.fallback is Deny: {describe(found)}. Request the cluster's "
            "RDMA resource for this role, or set fallback: Allow or protocol: tcp"
        )
    if protocol == "rdma":
        log.warning("rdma_fell_back_to_tcp", found=describe(found))
    return "tcp", ""


def refuse_other_networks(backend: str, protocol: str, fallback: str) -> None:
    """Only Mooncake has RDMA. Raises EngineInitFailed where falling back is forbidden."""
    if fallback == "Deny" and protocol != "tcp":
        raise EngineInitFailed(
            f"backend {backend} has no RDMA, and spec.transport.fallback is Deny: set backend: mooncake, or "
            "protocol: tcp"
        )


async def open_transport(
    *,
    backend: str,
    protocol: str,
    fallback: str,
    host: str,
    pool_size: int,
    port_min: int,
    port_max: int,
    incarnation: str,
    pulls: str = "",
    huge_pages: str = "",
    rdma_devices: Collection[str] = frozenset(),
    shm_key: str = "",
) -> Transport:
    """Open a pool of at least `pool_size` bytes that peers can pull from.

    `backend` is mooncake, tcp, shm or memory (in this process, for tests); `protocol` is auto, rdma or tcp, and so is
    `pulls`, for inputs that come by another network (empty: by the same); `fallback` is Allow or Deny; `host` is the
    address that peers reach this worker by; ports are taken from
    `port_min` to `port_max`, both included (Mooncake: two, and two more for each peer that is pulled from, and as many
    again may be in TIME-WAIT). Of RDMA devices only `rdma_devices` are used, if it names any. With `huge_pages` (2Mi or
    1Gi) the pool is made of these. Over shared memory,
    workers of another `shm_key` are not met.
    Raises EngineInitFailed, which names what is missing.
    """
    if backend == "mooncake":

        def engines(protocol: str) -> EngineSettings:
            network, names = choose_network(protocol, fallback, allowed=rdma_devices)
            log.info("transport_opening", backend=backend, network=network, devices=names)
            return EngineSettings(host, network, names, port_min, port_max)

        serving = engines(protocol)
        pulling = engines(pulls) if pulls else serving
        return await MooncakeTransport.open(
            serving, pulling, pool_size=pool_size, incarnation=incarnation, huge_pages=huge_pages
        )
    if backend not in BACKENDS:
        raise EngineInitFailed(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    refuse_other_networks(backend, protocol, fallback)
    if huge_pages and backend != "tcp":
        raise EngineInitFailed(f"backend {backend} has no huge pages: leave out spec.transport.hugePages")
    if backend == "tcp":
        return TcpTransport(
            host=host,
            port_min=port_min,
            port_max=port_max,
            pool_size=pool_size,
            incarnation=incarnation,
            huge_pages=huge_pages,
        )
    if backend == "shm":
        return ShmTransport(key=shm_key, pool_size=pool_size, incarnation=incarnation)
    return MemoryTransport(pool_size=pool_size, incarnation=incarnation)
