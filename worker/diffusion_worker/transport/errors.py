"""Everything that can go wrong between two pools. `kind` is a bounded word for metrics and for the router."""

from __future__ import annotations

from typing import ClassVar


class TransportError(Exception):
    """Base of all. The message names the peer, the object and what to do."""

    kind: ClassVar[str] = "transport"


class PeerDead(TransportError):
    """The peer can't be reached, hung up, or its engine failed without saying why."""

    kind = "peer_dead"


class TransferTimeout(TransportError):
    """Our own deadline passed. Says nothing about the peer's health."""

    kind = "timeout"


class DigestMismatch(TransportError):
    """The bytes are not those that were published, twice over."""

    kind = "digest_mismatch"


class StaleDescriptor(TransportError):
    """The slot no longer holds what the descriptor names."""

    kind = "stale_descriptor"


class OutOfRange(TransportError):
    """An address or length outside the pool, or longer than the slot that should take it."""

    kind = "out_of_range"


class ModeMismatch(TransportError):
    """The two ends use different back ends or networks."""

    kind = "mode_mismatch"


class EngineInitFailed(TransportError):
    """The back end could not start: library, devices, ports or memory."""

    kind = "engine_init_failed"


class PoolFull(TransportError):
    """No room now; there will be when a slot is released."""

    kind = "pool_full"


class TooLarge(TransportError):
    """Would not fit the pool were it empty."""

    kind = "too_large"


class SlotLost(TransportError):
    """The slot was taken from its owner: the worker was fenced, or a late write may still land in it."""

    kind = "slot_lost"
