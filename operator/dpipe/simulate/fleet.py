"""What a simulated pipeline is made of: peers by role, and how long what they do takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from diffusion_router.core import Stage

ROLES: Final[Mapping[str, Stage]] = {"encoder": Stage.ENCODE, "denoiser": Stage.DENOISE, "decoder": Stage.DECODE}
_SETS: Final = [frozenset(some) for size in (1, 2, 3) for some in combinations(Stage, size)]


@dataclass(frozen=True, slots=True)
class Shape:
    """Seconds that each stage of a request takes on a peer that does nothing else; `denoise` takes so many `steps`."""

    name: str
    encode: float
    denoise: float
    decode: float
    steps: int

    def seconds(self, stage: Stage, steps: int = 0) -> float:
        """steps: those of a request that asks for another number of them; 0: the shape's own."""
        if stage is Stage.DENOISE:
            return self.denoise * (steps or self.steps) / self.steps
        return self.encode if stage is Stage.ENCODE else self.decode

    def solo(self, steps: int = 0) -> float:
        """Of all stages."""
        return sum(self.seconds(stage, steps) for stage in Stage)


@dataclass(frozen=True, slots=True)
class Group:
    """Peers of the same roles.

    batch: of one step of 1, 2, … requests of a shape together, the time beside that of one alone. Where it ends it goes
    on as its last step does; empty: nothing is computed together, so that two take twice as long as one.
    """

    stages: frozenset[Stage]
    peers: int
    capacity: int = 1
    slots: int = 64
    batch: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return "+".join(role for role, stage in ROLES.items() if stage in self.stages)

    def together(self, requests: int) -> float:
        """Time of one step of so many, beside that of one alone."""
        if not self.batch:
            return float(requests)
        if requests <= len(self.batch):
            return self.batch[requests - 1]
        last = self.batch[-1]
        slope = last - self.batch[-2] if len(self.batch) > 1 else last
        return last + slope * (requests - len(self.batch))

    @property
    def throughput(self) -> float:
        """Requests that a peer advances in the time of one alone, when all its places are taken as is best."""
        return max(number / self.together(number) for number in range(1, self.capacity + 1))


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a denoiser's adapters: how many it holds beside the model, and how long it takes to load one."""

    room: int = 1
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """transfer: seconds that it takes to pull an output from another peer. park: between the step after which a
    denoising is parked and the report of its checkpoint."""

    groups: tuple[Group, ...]
    shapes: Mapping[str, Shape]
    transfer: float = 0.0
    park: float = 0.0
    memory: Memory = Memory()

    def capacity(self, mix: Mapping[str, float], steps: Mapping[int, float] | None = None) -> float:
        """Jobs a second that no order can exceed where shapes come in these proportions, and steps too (none: each
        shape's own): of every set of stages, all work must go through the peers that do any of them."""
        parts = {
            (name, number): share * weight
            for name, share in mix.items()
            for number, weight in (steps or {0: 1.0}).items()
        }
        whole = sum(parts.values())
        work = {
            stage: sum(
                part / whole * self.shapes[name].seconds(stage, number) for (name, number), part in parts.items()
            )
            for stage in Stage
        }
        most = math.inf
        for some in _SETS:
            able = sum(group.peers * group.throughput for group in self.groups if group.stages & some)
            seconds = sum(work[stage] for stage in some)
            if seconds > 0:
                most = min(most, able / seconds)
        return most
