"""Descriptor <-> protobuf, in one place."""

from __future__ import annotations

from diffusion_worker.transport.descriptor import Descriptor
from diffusionpipeline.v1 import stage_pb2


def to_wire(descriptor: Descriptor, generation: str | None = None) -> stage_pb2.Descriptor:
    """As the router carries it. `generation` is the maker's (pod template hash), which the pool does not know."""
    return stage_pb2.Descriptor(
        incarnation=descriptor.incarnation,
        mode=descriptor.mode,
        session=descriptor.session,
        slot=descriptor.slot,
        slot_generation=descriptor.slot_generation,
        address=descriptor.address,
        length=descriptor.length,
        digest=descriptor.digest,
        generation=descriptor.generation if generation is None else generation,
    )


def from_wire(message: stage_pb2.Descriptor) -> Descriptor:
    return Descriptor(
        incarnation=message.incarnation,
        mode=message.mode,
        session=message.session,
        slot=message.slot,
        slot_generation=message.slot_generation,
        address=message.address,
        length=message.length,
        digest=message.digest,
        generation=message.generation,
    )
