"""What the worker sees of a transport: a pool of its own, and pulling from the pools of others.

Pull, not push: a write that failed may still land later, in memory that by then belongs to another job, on another
machine. A failed pull can at worst land late in the puller's own slot, which stays in quarantine until that can no
longer happen.
"""

from __future__ import annotations

from typing import Protocol

from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.pool import Pool, Slot


class Transport(Protocol):
    """One per worker. All methods are called on the event loop; `pool` may be used from any thread."""

    mode: str
    """By which its pool is pulled from."""
    pulls: str
    """By which its inputs come: the same, unless their edge has another network than that of its outputs."""
    pool: Pool
    failure: str | None
    """Why this pool can't be served any more: the worker must end, and come back as a new incarnation. Else None."""

    async def pull(self, descriptor: Descriptor, slot: Slot, *, timeout: float) -> None:
        """Fill `slot` with the payload that `descriptor` names; seal and digest have been checked when it returns.

        `slot` is freshly leased for at least `descriptor.payload_bytes`; afterwards `slot.payload` is exactly the
        payload. `timeout` in seconds is for everything. Raises a TransportError; whatever happens, also when
        cancelled, the caller releases the slot, and may do so at once: where late bytes could still land in it, it is
        in quarantine and the pool takes it back when that is over. To try again, lease another slot.
        """
        ...

    def drop_peer(self, incarnation: str) -> None:
        """Forget a peer that left or was fenced. Pulls from it that are under way fail. Returns at once."""
        ...

    async def close(self) -> None:
        """Stop serving and pulling; bounded by a few seconds."""
        ...
