"""How each generation does: tasks that it did, that failed in it, and how long they took beside those of the others.

Requests differ, so times are compared like with like: what a task took is held against what tasks of the same stage
and shape took, on average, in the generation that has done the most of them. Those that have nothing to be held
against are not in the times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from diffusion_router.core.events import Stage

_MAX_GENERATIONS: Final = 8
_MAX_SHAPES: Final = 1024


@dataclass(slots=True)
class Tally:
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Of tasks that others could be held against."""
    expected_seconds: float = 0.0
    """What those would have taken in another generation."""


@dataclass(slots=True)
class _Mean:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += (seconds - self.seconds) / self.count


class Tallies:
    """By generation; of those that were heard of last."""

    def __init__(self) -> None:
        self.by_generation: dict[str, Tally] = {}
        self._means: dict[str, dict[tuple[Stage, str], _Mean]] = {}

    def done(self, generation: str, stage: Stage, shape: str, seconds: float) -> None:
        tally = self._tally(generation)
        tally.done += 1
        if not (math.isfinite(seconds) and seconds >= 0):
            return
        others = [
            means[stage, shape] for of, means in self._means.items() if of != generation and (stage, shape) in means
        ]
        if others:
            tally.seconds += seconds
            tally.expected_seconds += max(others, key=lambda mean: mean.count).seconds
        means = self._means.setdefault(generation, {})
        if (stage, shape) not in means and len(means) >= _MAX_SHAPES:
            del means[next(iter(means))]
        means.setdefault((stage, shape), _Mean()).add(seconds)

    def failed(self, generation: str) -> None:
        self._tally(generation).failed += 1

    def begin_anew(self, generation: str) -> None:
        """What it did before is not to count."""
        self.by_generation.pop(generation, None)
        self._means.pop(generation, None)

    def _tally(self, generation: str) -> Tally:
        if generation not in self.by_generation and len(self.by_generation) >= _MAX_GENERATIONS:
            self.begin_anew(next(iter(self.by_generation)))
        return self.by_generation.setdefault(generation, Tally())
