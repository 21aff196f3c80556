"""What every back end's pull has in common: refuse what can't work, check seal and digest, try a mismatch once more.

A back end supplies `fetch`, which moves the bytes and says what their digest is.
"""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass

from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import (
    DigestMismatch,
    ModeMismatch,
    OutOfRange,
    SlotLost,
    StaleDescriptor,
    TransferTimeout,
)
from diffusion_worker.transport.pool import Pool, Slot
from diffusion_worker.transport.seal import SEAL_BYTES, Seal, fingerprint


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        return Deadline(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds, not negative."""
        return max(0.0, self.at - time.monotonic())


class PullingTransport(abc.ABC):
    """A Transport, but for `fetch`, `drop_peer` and `close`."""

    mode: str
    pulls: str
    pool: Pool
    failure: str | None = None

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.mode = self.pulls = pool.mode

    @abc.abstractmethod
    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        """Copy `descriptor.length` bytes to the slot's start; return the xxh3-64 of those behind the seal.

        Before it raises, also CancelledError, it has put the slot in quarantine if bytes may still land there.
        """

    @abc.abstractmethod
    def drop_peer(self, incarnation: str) -> None: ...

    @abc.abstractmethod
    async def close(self) -> None: ...

    async def pull(self, descriptor: Descriptor, slot: Slot, *, timeout: float) -> None:
        self._refuse(descriptor, slot)
        deadline = Deadline.after(timeout)
        wanted = Seal(
            fingerprint(descriptor.incarnation),
            descriptor.slot,
            descriptor.slot_generation,
            descriptor.length,
            descriptor.digest,
        )
        for last in (False, True):
            try:
                digest = await self.fetch(descriptor, slot, deadline)
            except TimeoutError as error:
                raise TransferTimeout(f"{_name(descriptor)}: {descriptor.length} bytes did not come in time") from error
            if Seal.unpack(slot.region) != wanted:
                raise StaleDescriptor(f"{_name(descriptor)} is no longer there")
            if digest == descriptor.digest:
                slot.region[:SEAL_BYTES] = bytes(SEAL_BYTES)
                slot.nbytes = descriptor.payload_bytes
                return
            if last:
                raise DigestMismatch(f"{_name(descriptor)}: digest {digest:016x} is not {descriptor.digest:016x}")

    def _refuse(self, descriptor: Descriptor, slot: Slot) -> None:
        # A worker reaches its own pool as well, though its inputs come by another network.
        if descriptor.mode not in (self.mode, self.pulls) or not descriptor.url.startswith(f"{descriptor.mode}://"):
            raise ModeMismatch(
                f"{_name(descriptor)} is reached by {descriptor.mode}, this worker pulls by {self.pulls}: all workers "
                "of a pipeline need the same spec.transport"
            )
        if not SEAL_BYTES <= descriptor.length <= slot.capacity:
            raise OutOfRange(f"{_name(descriptor)}: {descriptor.length} bytes for a slot of {slot.capacity}")
        if not self.pool.holds(slot):
            raise SlotLost(f"slot {slot.index} generation {slot.generation} of {slot.owner} is no longer its own")


def _name(descriptor: Descriptor) -> str:
    return (
        f"slot {descriptor.slot} generation {descriptor.slot_generation} of {descriptor.incarnation} "
        f"at {descriptor.url}"
    )
