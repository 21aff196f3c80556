"""From settings to a transport."""

from typing import Final

from diffusion_worker.transport.errors import EngineInitFailed
from diffusion_worker.transport.interface import TransferObserver, Transport
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.transport.tcp import TcpTransport

BACKENDS: Final = ("mooncake", "tcp", "shm", "memory")


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
    observer: TransferObserver | None = None,
) -> Transport:
    """Open a pool of at least `pool_size` bytes that peers can pull from.

    `backend` is mooncake, tcp, shm or memory (in this process, for tests); `protocol` is auto, rdma or tcp and
    `fallback` Allow or Deny; `host` is the address that peers reach this worker by; ports are taken from
    `port_min` to `port_max`, both included. Raises EngineInitFailed, which names what is missing.
    """
    if backend == "memory":
        return MemoryTransport(pool_size=pool_size, incarnation=incarnation, observer=observer)
    if backend == "tcp":
        return TcpTransport(
            host=host,
            port_min=port_min,
            port_max=port_max,
            pool_size=pool_size,
            incarnation=incarnation,
            observer=observer,
        )
    raise EngineInitFailed(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
