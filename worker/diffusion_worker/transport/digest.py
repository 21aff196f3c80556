"""xxh3-64 over a payload, in pieces: xxhash keeps the interpreter lock, and bytes that just came are still in cache."""

from __future__ import annotations

from typing import Final

import xxhash

# 25 µs at 20 GiB/s: short enough for the event loop beside it, small enough for a core's second-level cache.
PIECE: Final = 1 << 19


def digest_of(data: memoryview) -> int:
    if data.nbytes <= PIECE:
        return xxhash.xxh3_64_intdigest(data)
    digest = xxhash.xxh3_64()
    for start in range(0, data.nbytes, PIECE):
        digest.update(data[start : start + PIECE])
    return digest.intdigest()
