"""The name of a published slot, as it travels from producer to router to consumer."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_worker.transport.seal import SEAL_BYTES


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Where a stage's output lies. Valid as long as the slot in this incarnation's pool is at slot_generation."""

    incarnation: str
    mode: str
    session: str
    """How the mode reaches the pool: a URL whose scheme is the mode."""
    slot: int
    slot_generation: int
    address: int
    """Of the seal: in the owner's address space (Mooncake), or in its pool (others)."""
    length: int
    """Of seal and payload, in bytes."""
    digest: int
    """xxh3-64 of the payload."""
    generation: str = ""
    """Hash of the pod template of the peer that made it."""

    @property
    def payload_bytes(self) -> int:
        """What to lease for pulling it."""
        return self.length - SEAL_BYTES
