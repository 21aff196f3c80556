"""A worker's one region of memory, and the slots that are leased from it.

The region is page-aligned, touched in full before anything is served (a transfer into untouched pages can miss its
deadline) and registered with the network once. Slots are runs of pages; each row of the slot table has a generation
that rises with every lease, so a descriptor of an earlier lease can be told from the present one.

    free -> leased (generation, owner) -> ready -> free
              \\-> quarantined -> free

Thread-safe: outputs are leased and published by the compute thread, inputs by the event loop.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from diffusion_worker.digest import digest_of
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import OutOfRange, PoolFull, SlotLost, TooLarge
from diffusion_worker.transport.extents import Extents
from diffusion_worker.transport.seal import SEAL_BYTES, Seal, fingerprint

PAGE: Final = 4096
DEFAULT_SLOTS: Final = 1024


class SlotState(StrEnum):
    LEASED = "leased"
    READY = "ready"
    QUARANTINED = "quarantined"


@dataclass(eq=False)
class Slot:
    """One lease. The handle outlives the lease harmlessly: a later lease of the same row is another handle."""

    index: int
    generation: int
    offset: int
    """Of the seal, in bytes from the pool's start; a multiple of the page size."""
    capacity: int
    """Bytes of seal and payload, a multiple of the page size."""
    owner: str
    region: memoryview
    """The slot's bytes, seal included."""
    nbytes: int
    """Of the payload: as leased, then as published or pulled."""

    @property
    def payload(self) -> memoryview:
        """The payload's bytes, 64-byte aligned."""
        return self.region[SEAL_BYTES : SEAL_BYTES + self.nbytes]


@dataclass
class _Row:
    generation: int = 0
    slot: Slot | None = None
    state: SlotState = SlotState.LEASED
    orphaned: bool = False


class Pool:
    """`memory` is page-aligned and writable, and stays mapped as long as the pool lives."""

    def __init__(
        self,
        memory: mmap.mmap,
        *,
        incarnation: str,
        mode: str,
        url: str,
        address: int = 0,
        slots: int = DEFAULT_SLOTS,
    ) -> None:
        self.view = memoryview(memory)
        self.size = self.view.nbytes
        self.incarnation = incarnation
        self.mode = mode
        self.url = url
        self.address = address
        self.slots = slots
        self._lock = threading.Lock()
        self._extents = Extents(self.size // PAGE)
        self._rows = [_Row() for _ in range(slots)]
        self._vacant = list(range(slots - 1, -1, -1))
        self._used = 0
        self._quarantined = 0
        self._aside: Slot | None = None

    @property
    def slots_used(self) -> int:
        """Slots that are not free, those in quarantine included, but not one that is set aside."""
        return self.slots - len(self._vacant) - (self._aside is not None)

    @property
    def bytes_used(self) -> int:
        """Bytes of pages that are not free, but not of a slot that is set aside."""
        aside = self._aside
        return self._used - (aside.capacity if aside is not None else 0)

    @property
    def quarantined(self) -> int:
        """Slots in quarantine."""
        return self._quarantined

    def lease(self, nbytes: int, owner: str) -> Slot:
        """A slot for `nbytes` of payload. Raises TooLarge if it can never fit, PoolFull if it does not fit now."""
        capacity = -(-(SEAL_BYTES + nbytes) // PAGE) * PAGE
        if nbytes < 0:
            raise OutOfRange(f"lease of {nbytes} bytes for {owner}: a length is not negative")
        if capacity > self.size:
            raise TooLarge(
                f"{nbytes} bytes for {owner} never fit this worker's pool of {self.size} bytes: "
                "raise spec.transport.poolSize"
            )
        with self._lock:
            start = self._extents.take(capacity // PAGE) if self._vacant else None
            if start is None:
                raise PoolFull(
                    f"no room for {nbytes} bytes for {owner}: {self._used} of {self.size} bytes and "
                    f"{self.slots - len(self._vacant)} of {self.slots} slots are in use"
                )
            row = self._rows[self._vacant[-1]]
            row.generation += 1
            row.state, row.orphaned = SlotState.LEASED, False
            offset = start * PAGE
            row.slot = Slot(
                index=self._vacant.pop(),
                generation=row.generation,
                offset=offset,
                capacity=capacity,
                owner=owner,
                region=self.view[offset : offset + capacity],
                nbytes=nbytes,
            )
            self._used += capacity
            _erase(row.slot)  # an earlier payload's bytes must not pass for a seal
            return row.slot

    def publish(self, slot: Slot, nbytes: int, digest: int | None = None) -> Descriptor:
        """Seal the first `nbytes` of the payload; from now on they must not change. Raises SlotLost after fencing.

        `digest` is that of what was written there. Left out, it is that of what is there, whoever wrote it.
        """
        if not 0 <= nbytes <= slot.capacity - SEAL_BYTES:
            raise OutOfRange(f"publish of {nbytes} bytes from a slot for {slot.capacity - SEAL_BYTES}")
        slot.nbytes = nbytes
        digest = digest_of(slot.payload) if digest is None else digest
        with self._lock:
            row = self._rows[slot.index]
            if row.slot is not slot or row.orphaned or row.state is not SlotState.LEASED:
                raise SlotLost(f"slot {slot.index} generation {slot.generation} of {slot.owner} is no longer its own")
            length = SEAL_BYTES + nbytes
            seal = Seal(fingerprint(self.incarnation), slot.index, slot.generation, length, digest)
            slot.region[:SEAL_BYTES] = seal.pack()
            row.state = SlotState.READY
            return Descriptor(
                incarnation=self.incarnation,
                mode=self.mode,
                url=self.url,
                slot=slot.index,
                slot_generation=slot.generation,
                address=self.address + slot.offset,
                length=length,
                digest=digest,
            )

    def set_aside(self, slot: Slot) -> None:
        """It belongs to no task: it is not counted as used until it is given back. One at a time."""
        with self._lock:
            self._aside = slot

    def release(self, slot: Slot) -> None:
        """Give a slot back. Harmless for one that was given back before, or is in quarantine."""
        with self._lock:
            row = self._rows[slot.index]
            if row.slot is slot and row.state is not SlotState.QUARANTINED:
                self._free(row, slot)

    def quarantine(self, slot: Slot) -> None:
        """Take a slot from its owner until `end_quarantine`: bytes may still land in it."""
        with self._lock:
            row = self._rows[slot.index]
            if row.slot is slot and row.state is not SlotState.QUARANTINED:
                row.state = SlotState.QUARANTINED
                self._quarantined += 1

    def end_quarantine(self, slot: Slot) -> None:
        """No more bytes can land in it: free it. For transports, once the engine or connection is gone."""
        with self._lock:
            row = self._rows[slot.index]
            if row.slot is slot and row.state is SlotState.QUARANTINED:
                self._quarantined -= 1
                self._free(row, slot)

    def reincarnate(self, incarnation: str) -> None:
        """After fencing: the worker is a new peer, and nothing that it published before may be pulled.

        Published slots are free at once. Slots that are still being written to keep their pages until their owner
        releases them, but can't be published any more; quarantine goes on.
        """
        with self._lock:
            self.incarnation = incarnation
            for row in self._rows:
                if row.slot is not None:
                    _erase(row.slot)
                    if row.state is SlotState.READY:
                        self._free(row, row.slot)
                    else:
                        row.orphaned = True

    def holds(self, slot: Slot) -> bool:
        """Whether the slot is leased by its owner: neither published, given back nor taken from it."""
        with self._lock:
            row = self._rows[slot.index]
            return row.slot is slot and row.state is SlotState.LEASED and not row.orphaned

    def find(self, incarnation: bytes, index: int, generation: int) -> Slot | None:
        """The published slot that a request names (by `fingerprint`), or None: for servers of pulls."""
        with self._lock:
            row = self._rows[index] if index < self.slots else None
            if row is None or row.slot is None or row.state is not SlotState.READY:
                return None
            named = row.generation == generation and fingerprint(self.incarnation) == incarnation
            return row.slot if named else None

    def _free(self, row: _Row, slot: Slot) -> None:
        _erase(slot)
        row.slot = None
        if slot is self._aside:
            self._aside = None
        self._extents.give(slot.offset // PAGE, slot.capacity // PAGE)
        self._vacant.append(slot.index)
        self._used -= slot.capacity


def _erase(slot: Slot) -> None:
    slot.region[:SEAL_BYTES] = bytes(SEAL_BYTES)


def pages_for(nbytes: int) -> int:
    """`nbytes` rounded up to whole pages, in bytes."""
    return max(1, -(-nbytes // PAGE)) * PAGE


def allocate(nbytes: int, file: int | None = None) -> mmap.mmap:
    """Touched pages for a pool of at least `nbytes`: anonymous, or shared pages of an open file."""
    size = pages_for(nbytes)
    if file is not None:
        os.ftruncate(file, size)
        os.posix_fallocate(file, 0, size)  # a full /dev/shm answers here, not with a SIGBUS later
        memory = mmap.mmap(file, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8)[::PAGE] = 0
    return memory
