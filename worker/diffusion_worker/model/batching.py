"""Which denoisings compute together: the pipeline's mode, and what it means for one request. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["Exact", "Guidance", "Requests"]
"""Exact: forwards of batch 1. Guidance: the branches of guidance in one forward, where the family's own pipeline has it
so. Requests: those of different requests too, as far as there is room."""


class Company(Enum):
    """With which other calls one may share a forward."""

    NONE = "none"
    OWN = "own"
    """Those of the same question: the branches of guidance. Bits depend on the request alone."""
    ANY = "any"
    """Those of others too: bits depend on the load."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """max_tokens, max_requests: of one forward that several requests share."""

    mode: Mode
    max_tokens: int
    max_requests: int

    @property
    def together(self) -> int:
        """How many denoisings are begun at once: where none shares a forward, to begin a second would only delay it."""
        return self.max_requests if self.mode == "Requests" else 1

    def company(self, *, exact: bool) -> Company:
        """With whom a request's calls may share a forward. `exact`: the request wants none."""
        if exact or self.mode == "Exact":
            return Company.NONE
        return Company.ANY if self.mode == "Requests" else Company.OWN
