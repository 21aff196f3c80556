"""Moving a stage's output from pool to pool: one interface, four back ends (mooncake, tcp, shm, memory)."""

from __future__ import annotations

from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import (
    DigestMismatch,
    EngineInitFailed,
    ModeMismatch,
    OutOfRange,
    PeerDead,
    PoolFull,
    SlotLost,
    StaleDescriptor,
    TooLarge,
    TransferTimeout,
    TransportError,
)
from diffusion_worker.transport.interface import TransferObserver, Transport
from diffusion_worker.transport.open import open_transport
from diffusion_worker.transport.pool import Pool, Slot, SlotState
from diffusion_worker.transport.wire import from_wire, to_wire

__all__ = [
    "Descriptor",
    "DigestMismatch",
    "EngineInitFailed",
    "ModeMismatch",
    "OutOfRange",
    "PeerDead",
    "Pool",
    "PoolFull",
    "Slot",
    "SlotLost",
    "SlotState",
    "StaleDescriptor",
    "TooLarge",
    "TransferObserver",
    "TransferTimeout",
    "Transport",
    "TransportError",
    "from_wire",
    "open_transport",
    "to_wire",
]
