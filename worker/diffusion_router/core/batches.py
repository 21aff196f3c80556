"""Denoisings that share forwards on one peer: what that takes, by workers' own measurements, and whether it pays.

A worker says what its forwards took, by what they were of and how many requests shared them, and with each denoising
what most of its forwards were of. So it is known what a step of so many jobs of one batch takes beside a step of one.

One more pays if then more steps are made a second than before; where that has not been tried yet it is taken to, or it
would never be known. Workers forget what they have not seen for a while, and so it is tried again.

All peers of a generation are alike: what one of them measures is taken to hold for the others.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, Final, TypeVar

from diffusion_router.core.events import ForwardTime

K = TypeVar("K")

_WEIGHT: Final = 0.2
_MAX_SHAPES: Final = 1024
# By which steps a second must be more than before: less is noise, for which nobody's own step should become slower.
GAIN: Final = 0.03
_ALONE: Final = {1: 1.0}

Place = tuple[str, str]
"""A generation, and what is the same there: a shape of forwards, or a batch of jobs."""


class Batches:
    def __init__(self) -> None:
        self._seconds: OrderedDict[Place, dict[int, float]] = OrderedDict()
        self._forwards: OrderedDict[Place, str] = OrderedDict()
        # Jobs of a shape may be of several batches: that of the last one.
        self._of_shape: OrderedDict[str, str] = OrderedDict()

    def measured(self, generation: str, time: ForwardTime) -> None:
        """What a worker says; a time that is none is not learnt."""
        if time.requests < 1 or not (math.isfinite(time.seconds) and time.seconds > 0):
            return
        of_shape = self._seconds.setdefault((generation, time.shape), {})
        before = of_shape.get(time.requests, time.seconds)
        of_shape[time.requests] = before + _WEIGHT * (time.seconds - before)
        _keep_few(self._seconds, (generation, time.shape))

    def makes(self, generation: str, batch: str, forwards: str) -> None:
        """A job of this batch was denoised, mostly by such forwards."""
        if batch and forwards:
            self._forwards[generation, batch] = forwards
            _keep_few(self._forwards, (generation, batch))

    def __len__(self) -> int:
        """What is remembered, in all."""
        return len(self._seconds) + len(self._forwards) + len(self._of_shape)

    def shaped(self, shape: str, batch: str) -> None:
        self._of_shape[shape] = batch
        _keep_few(self._of_shape, shape)

    def of(self, shape: str) -> str:
        """The batch of jobs of a shape."""
        return self._of_shape.get(shape, "")

    def slowdown(self, generation: str, batch: str, together: int) -> float:
        """By how much a step of so many jobs of a batch is slower than that of one: between what was measured it grows
        evenly, and beyond by what one takes each."""
        times = self._times(generation, batch)
        return _at(times, together) / _at(times, 1)

    def pays(self, generation: str, batch: str, together: int) -> bool:
        """Whether so many make more steps a second than one fewer."""
        times = self._times(generation, batch)
        if together < 2 or together > max(times):
            return True
        return _at(times, together) / together <= (1.0 - GAIN) * _at(times, together - 1) / (together - 1)

    def most(self, generation: str, batch: str, capacity: int) -> int:
        """How many would be computed together where many wait."""
        together = 1
        while batch and together < capacity and self.pays(generation, batch, together + 1):
            together += 1
        return together

    def cost(self, generation: str, batch: str, others: int) -> float:
        """Of beginning one beside so many others, at least one, in steps of one alone: its own step, and by how much
        theirs become slower."""
        after = self.slowdown(generation, batch, others + 1)
        return after + others * (after - self.slowdown(generation, batch, others))

    def _times(self, generation: str, batch: str) -> dict[int, float]:
        forwards = self._forwards.get((generation, batch))
        return (self._seconds.get((generation, forwards)) if forwards is not None else None) or _ALONE


def _at(times: dict[int, float], together: int) -> float:
    if together in times:
        return times[together]
    below = max((number for number in times if number < together), default=0)
    above = min((number for number in times if number > together), default=0)
    if not above:
        return times[below] * together / below
    low = times[below] if below else 0.0
    return low + (times[above] - low) * (together - below) / (above - below)


def _keep_few(known: OrderedDict[K, Any], latest: K) -> None:
    known.move_to_end(latest)
    if len(known) > _MAX_SHAPES:
        known.popitem(last=False)
