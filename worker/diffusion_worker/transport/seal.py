"""The 64 bytes in front of every published payload, which say whose they are.

A consumer pulls seal and payload in one read. One-sided reads ask nobody, so only the bytes themselves can tell that
the slot was reused meanwhile: the seal is erased on release, before the slot is leased again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import xxhash

SEAL_BYTES: Final = 64

# magic, incarnation (xxh3-128), slot, slot generation, length of seal and payload, digest of the payload, zeros
_LAYOUT: Final = struct.Struct("<8s16sIQQQ12x")
_MAGIC: Final = b"DPSEAL01"

assert _LAYOUT.size == SEAL_BYTES


def fingerprint(incarnation: str) -> bytes:
    """An incarnation in 16 bytes, for fixed-size records."""
    return xxhash.xxh3_128_digest(incarnation.encode())


@dataclass(frozen=True)
class Seal:
    incarnation: bytes
    slot: int
    slot_generation: int
    length: int
    digest: int

    def pack(self) -> bytes:
        return _LAYOUT.pack(_MAGIC, self.incarnation, self.slot, self.slot_generation, self.length, self.digest)

    @staticmethod
    def unpack(data: memoryview | bytes) -> Seal | None:
        """None if there is no seal."""
        magic, *fields = _LAYOUT.unpack_from(data)
        return Seal(*fields) if magic == _MAGIC else None
