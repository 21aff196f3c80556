"""The files and sockets that a process may have open, shared out before they run short."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from diffusionpipeline.process.connections import SPARE_CONNECTIONS

# What a process asks for; more would only be a larger table.
_WANTED: Final = 1 << 16
# For what is no client's connection: stores, libraries, and connections that are on their way in or out.
_OWN: Final = 256
_LEAST_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections with requests there are descriptors for, over HTTP and over gRPC."""

    http: int
    grpc: int


def share_descriptors() -> Room:
    """Raise this process's limit where it may, and give HTTP and gRPC half each of what is not its own.

    Neither can then take what the other needs. Raises OSError where the limit is too low to serve anybody.
    """
    soft, hard = (_WANTED if limit == resource.RLIM_INFINITY else limit for limit in _limits())
    if soft < (most := min(hard, _WANTED)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, _limits()[1]))
    return share(max(soft, most))


def share(limit: int) -> Room:
    """Of a limit that is known. Raises OSError."""
    grpc = (limit - _OWN) // 2
    http = grpc - SPARE_CONNECTIONS
    if http < _LEAST_CONNECTIONS:
        least = _OWN + 2 * (SPARE_CONNECTIONS + _LEAST_CONNECTIONS)
        raise OSError(f"this process may open {limit} files; raise its limit (ulimit -n) to {least} or more")
    return Room(http, grpc)


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
