"""Policies by name: what the router's core is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from diffusion_router.core import Deadline, Fifo, Policy
from dpipe.simulate.errors import InputError


@dataclass(frozen=True, slots=True)
class Named:
    """passes: starts for which the oldest job may be passed over once it is late."""

    make: Callable[[], Policy]
    passes: int


_SHARE: Final = Deadline().late_share

POLICIES: Final[Mapping[str, Named]] = {
    "Fifo": Named(lambda: Policy(scheduling=Fifo()), passes=0),
    # One start in so many is the oldest's that is known to be late; it may be found so some starts after it is.
    "Deadline": Named(lambda: Policy(scheduling=Deadline()), passes=4 * _SHARE),
}


def named(name: str) -> Named:
    """Raises InputError."""
    try:
        return POLICIES[name]
    except KeyError:
        raise InputError(f"--policy {name}: is none of {', '.join(POLICIES)}") from None
