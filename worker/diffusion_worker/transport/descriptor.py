"""The name of a published slot, in memory and as protobuf, as it travels from producer to router to consumer."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_worker.transport.seal import SEAL_BYTES
from diffusionpipeline.v1 import stage_pb2


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Where a stage's output lies. Valid as long as the slot in this incarnation's pool is at slot_generation."""

    incarnation: str
    mode: str
    url: str
    """How the mode reaches the pool: a URL whose scheme is the mode."""
    slot: int
    slot_generation: int
    address: int
    """Of the seal: in the owner's address space (Mooncake), or in its pool (others)."""
    length: int
    """Of seal and payload, in bytes."""
    digest: int
    """xxh3-64 of the payload."""

    @property
    def payload_bytes(self) -> int:
        """What to lease for pulling it."""
        return self.length - SEAL_BYTES


def to_wire(descriptor: Descriptor, generation: str) -> stage_pb2.Descriptor:
    """As the router carries it, with the maker's generation (pod template hash), of which the pool knows nothing."""
    return stage_pb2.Descriptor(
        incarnation=descriptor.incarnation,
        mode=descriptor.mode,
        url=descriptor.url,
        slot=descriptor.slot,
        slot_generation=descriptor.slot_generation,
        address=descriptor.address,
        length=descriptor.length,
        digest=descriptor.digest,
        generation=generation,
    )


def from_wire(message: stage_pb2.Descriptor) -> Descriptor:
    """Without the maker's generation, which is the task's to check."""
    return Descriptor(
        incarnation=message.incarnation,
        mode=message.mode,
        url=message.url,
        slot=message.slot,
        slot_generation=message.slot_generation,
        address=message.address,
        length=message.length,
        digest=message.digest,
    )
