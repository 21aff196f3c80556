"""What goes wrong in a simulated pipeline, and when: stated, or drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    KILL = "kill"
    """Its process ends at once; another starts after `seconds`."""
    DRAIN = "drain"
    """It is told to leave, and leaves when it holds nothing; another starts `seconds` after."""
    PARTITION = "partition"
    """Its stream breaks; it attaches again after `seconds`."""
    SLOW = "slow"
    """Its steps take four times as long, for `seconds`."""
    FAIL = "fail"
    """What it computes fails, for a reason that another try can mend."""
    CANCEL = "cancel"
    """The client cancels what it computes."""
    RESTART = "restart"
    """The router ends, and another life of it starts at once. Of no peer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """peer: name of the worker, such as denoiser-0."""

    at: float
    kind: Kind
    peer: str = ""
    seconds: float = 0.0


# How often each is drawn, beside the others.
WEIGHTS: Final = {
    Kind.KILL: 20,
    Kind.DRAIN: 15,
    Kind.PARTITION: 30,
    Kind.SLOW: 5,
    Kind.FAIL: 20,
    Kind.CANCEL: 9,
    Kind.RESTART: 1,
}


def drawn(number: int, rate: float, peers: Sequence[str], lease: float, rng: random.Random) -> Iterator[Fault]:
    """So many faults, on average so many a second. Of the streams that break, half are back within the lease."""
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    at = 0.0
    for _ in range(number):
        at += rng.expovariate(rate)
        kind = rng.choices(kinds, weights)[0]
        yield Fault(at, kind, rng.choice(peers), rng.uniform(0.0, 2 * lease))
