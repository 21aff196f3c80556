"""Moving a stage's output from pool to pool: one interface, four back ends (mooncake, tcp, shm, memory)."""

from __future__ import annotations

from diffusion_worker.transport.descriptor import Descriptor, from_wire, to_wire
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
from diffusion_worker.transport.interface import Transport
from diffusion_worker.transport.open import open_transport
from diffusion_worker.transport.pool import Pool, Slot
from diffusion_worker.transport.private import private_copy
from diffusion_worker.transport.proof import Probe, Proof, open_proven, pull_rate

__all__ = [
    "Descriptor",
    "DigestMismatch",
    "EngineInitFailed",
    "ModeMismatch",
    "OutOfRange",
    "PeerDead",
    "Pool",
    "PoolFull",
    "Probe",
    "Proof",
    "Slot",
    "SlotLost",
    "StaleDescriptor",
    "TooLarge",
    "TransferTimeout",
    "Transport",
    "TransportError",
    "from_wire",
    "open_proven",
    "open_transport",
    "private_copy",
    "pull_rate",
    "to_wire",
]
