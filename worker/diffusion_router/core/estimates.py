"""How long stages take, learnt as they end, and what that says about jobs that are accepted now.

A stage that has ended is known by its shape; one that has not is taken to need as much as others of its stage, then as
other stages, but never less than it has already taken. What waits is worked off as fluid would be: of every set of
stages, all work that is left must go through the peers that do any of them, and the set that takes longest is what a
newcomer waits for. So roles that share peers are not counted as if each had them alone. Denoisings that share forwards
are counted one after the other, each with its part of what all take together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Protocol

from diffusion_router.core.events import Stage

_WEIGHT: Final = 0.2
_MAX_SHAPES: Final = 1024
# Of a stage of which nothing is known, and of no other either: enough to tell a client to come back.
_UNKNOWN: Final = 1.0
_SETS: Final = [frozenset(some) for size in (1, 2, 3) for some in combinations(Stage, size)]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds until a job would have passed all queues, and until it would have ended. `known`: some stage has been
    timed, so that it is more than a guess."""

    wait: float
    end: float
    known: bool


class Begun:
    """Tasks of one stage and shape that are computed: how many, and how long they have been, in all."""

    __slots__ = ("count", "since")

    def __init__(self) -> None:
        self.count = 0
        self.since = 0.0

    def elapsed(self, now: float) -> float:
        return self.count * now - self.since


class Together(Protocol):
    def __call__(self, shape: str) -> tuple[int, float]:
        """How many denoisings of a shape a peer computes together where many wait, and how much slower each is then."""


Load = Mapping[tuple[Stage, str], int]
Running = Mapping[tuple[Stage, str], Begun]


class Estimates:
    """Moving averages of stage seconds by stage and shape, and by stage for shapes not yet seen."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[Stage, str], float] = {}
        self._by_stage: dict[Stage, float] = {}
        self._supposed: dict[tuple[Stage, str], float] = {}
        """By how far tasks have come that have not ended."""
        self._passing: dict[Stage, float] = {}
        self.pause = 0.0
        """Seconds from when a denoising is told to park until its checkpoint is there."""

    def learn(self, stage: Stage, shape: str, seconds: float) -> None:
        """What a worker says; a time that is none is not learnt."""
        if not (math.isfinite(seconds) and seconds >= 0):
            return
        key = (stage, shape)
        self._supposed.pop(key, None)
        _make_room(self._by_shape, key)
        self._by_shape[key] = _mix(self._by_shape.get(key), seconds)
        self._by_stage[stage] = _mix(self._by_stage.get(stage), seconds)

    def suppose(self, stage: Stage, shape: str, seconds: float) -> None:
        """One that is under way is going to take about that long, if none of its kind has ended yet."""
        key = (stage, shape)
        if key not in self._by_shape:
            _make_room(self._supposed, key)
            self._supposed[key] = seconds

    def learn_passing(self, stage: Stage, seconds: float) -> None:
        """From when a task is sent to a peer that has nothing else to do until it computes: messages, and its input's
        transfer."""
        self._passing[stage] = _mix(self._passing.get(stage), seconds)

    def learn_pause(self, seconds: float) -> None:
        self.pause = _mix(self.pause or None, seconds)

    def work(self, shape: str, stage: Stage = Stage.ENCODE, share_left: float = 1.0) -> float:
        """Seconds from this stage to the end. share_left: of a denoising that was begun."""
        decode = self.seconds(Stage.DECODE, shape)
        if stage is Stage.DECODE:
            return decode
        denoise = self.seconds(Stage.DENOISE, shape) * share_left
        return denoise + decode + (self.seconds(Stage.ENCODE, shape) if stage is Stage.ENCODE else 0.0)

    @property
    def known(self) -> bool:
        return bool(self._by_stage or self._supposed)

    def seconds(self, stage: Stage, shape: str) -> float:
        """Never 0 for want of knowledge."""
        key = (stage, shape)
        found = self._by_shape.get(key)
        if found is None:
            found = self._supposed.get(key, self._by_stage.get(stage))
        if found is not None:
            return found
        others = [*self._by_stage.values(), *self._supposed.values()]
        return max(others, default=_UNKNOWN)

    def predict(
        self,
        shape: str,
        count: int,
        *,
        load: Load,
        running: Running,
        capacity: Mapping[frozenset[Stage], int],
        together: Together,
        now: float,
    ) -> Prediction:
        """Of the last of `count` jobs of this shape that would be accepted now.

        load: unfinished jobs by the stage that they have come to and their shape. running: what of it is computed.
        capacity: how many tasks all peers of the same stages run at once, those that denoise several together counted
        as one.
        """
        number, slowdown = together(shape)

        def part(stage: Stage, of_shape: str) -> float:
            if stage is not Stage.DENOISE:
                return 1.0
            of_those, slower = together(of_shape)
            return slower / of_those

        work, ahead = dict.fromkeys(Stage, 0.0), dict.fromkeys(Stage, 0)
        newer = (Stage.ENCODE, shape, count - 1)
        for reached, of_shape, jobs in [*((*key, jobs) for key, jobs in load.items()), newer]:
            for stage in Stage:
                if stage >= reached:
                    work[stage] += jobs * self._at_least(stage, of_shape, running, now) * part(stage, of_shape)
                    ahead[stage] += jobs
        for (stage, of_shape), begun in running.items():
            # Of a job that has ended meanwhile nothing was counted, so no more than there is is taken off.
            # What shares forwards has done less for itself in its time.
            alone = begun.elapsed(now) / (together(of_shape)[1] if stage is Stage.DENOISE else 1.0)
            done = min(alone, begun.count * self._at_least(stage, of_shape, running, now))
            work[stage] = max(0.0, work[stage] - done * part(stage, of_shape))
        own = sum(self._at_least(stage, shape, running, now) + self._passing.get(stage, 0.0) for stage in Stage)
        if ahead[Stage.DENOISE] > count - 1:
            own += (slowdown - 1.0) * self._at_least(Stage.DENOISE, shape, running, now)
        wait = max(_through(some, work, ahead[max(some)], capacity, number) for some in _SETS)
        return Prediction(wait, wait + own, self.known)

    def _at_least(self, stage: Stage, shape: str, running: Running, now: float) -> float:
        seconds = self.seconds(stage, shape)
        begun = running.get((stage, shape))
        if (stage, shape) in self._by_shape or begun is None or not begun.count:
            return seconds
        return max(seconds, begun.elapsed(now) / begun.count)


def _through(
    stages: frozenset[Stage],
    work: Mapping[Stage, float],
    ahead: int,
    capacity: Mapping[frozenset[Stage], int],
    together: int,
) -> float:
    """Seconds until a newcomer's turn where these stages are all that takes time; `ahead` jobs have some of it left,
    and a denoiser takes so many of its kind together."""
    places = max(1, sum(number for able, number in capacity.items() if able & stages))
    # A place is free as long as there are fewer jobs than places. Else none is idle before the newcomer's turn, which
    # so comes no later than when all have done the same.
    full = ahead >= places * (together if Stage.DENOISE in stages else 1)
    return sum(work[stage] for stage in stages) / places if full else 0.0


def _make_room(known: dict[tuple[Stage, str], float], key: tuple[Stage, str]) -> None:
    if key not in known and len(known) >= _MAX_SHAPES:
        known.pop(next(iter(known)))


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
