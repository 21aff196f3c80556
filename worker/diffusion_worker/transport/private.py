"""Out of the pool, into memory that nobody else can reach.

A pool may be written by others at any time: Mooncake's engines let whoever reaches them, and a segment of shared memory
is any process's of the same user. What was found right there may be something else a moment later, so what is computed
with is a copy, and the digest is that of the copy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import xxhash

from diffusion_worker.digest import copy
from diffusion_worker.transport.errors import DigestMismatch
from diffusion_worker.transport.pool import Slot

_ALIGNMENT: Final = 256
"""That of tensors in a payload, so that it is theirs in the copy too."""


def private_copy(slot: Slot, digest: int) -> memoryview:
    """The payload of a slot, as writable bytes of the caller's. Raises DigestMismatch if their xxh3-64 is another."""
    source = np.frombuffer(slot.payload, np.uint8)
    memory = np.empty(source.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    target = memory[start : start + source.nbytes]
    found = xxhash.xxh3_64()
    copy(source, target, found, private=target)
    if found.intdigest() != digest:
        raise DigestMismatch(
            f"slot {slot.index} generation {slot.generation} of {slot.owner}: its bytes changed after they were "
            "checked; whoever reaches this worker's ports or its shared memory can do that"
        )
    return target.data
