"""What a payload may cost, and the one error that it ends in."""

from __future__ import annotations

from dataclasses import dataclass


class PayloadError(ValueError):
    """The values can't be carried, or the bytes are not a payload. The message names the place."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that hold for writing and reading alike, so that what can be written can be read.

    Reading allocates at most `total_bytes` for tensors (and never more than the bytes it was given, eight times that
    for bilevel images, whose pixels are unpacked), and a small multiple of `header_bytes` for the tree.
    """

    header_bytes: int = 1 << 20
    depth: int = 32
    nodes: int = 65_536
    tensors: int = 4_096
    dimensions: int = 16
    total_bytes: int = 1 << 34
