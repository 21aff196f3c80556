"""How long stages take, learnt as they end, and what that says about the wait of the next job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diffusion_router.core.events import Stage

_WEIGHT: Final = 0.2
_MAX_SHAPES: Final = 1024


class Estimates:
    """Moving averages of stage seconds by stage and shape, with the stage's overall average for shapes not yet seen."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[Stage, str], float] = {}
        self._by_stage: dict[Stage, float] = {}

    def learn(self, stage: Stage, shape: str, seconds: float) -> None:
        key = (stage, shape)
        if key not in self._by_shape and len(self._by_shape) >= _MAX_SHAPES:
            self._by_shape.pop(next(iter(self._by_shape)))
        self._by_shape[key] = _mix(self._by_shape.get(key), seconds)
        self._by_stage[stage] = _mix(self._by_stage.get(stage), seconds)

    def seconds(self, stage: Stage, shape: str) -> float:
        """0.0 until the first such stage has ended."""
        return self._by_shape.get((stage, shape), self._by_stage.get(stage, 0.0))

    def wait(self, jobs: Mapping[tuple[Stage, str], int], capacity: Mapping[Stage, int]) -> float:
        """Seconds until a job accepted now would have passed the busiest role's queue.

        jobs: how many there are, by the stage that they have come to and their shape.
        """
        work = dict.fromkeys(Stage, 0.0)
        for (reached, shape), count in jobs.items():
            for stage in Stage:
                if stage >= reached:
                    work[stage] += count * self.seconds(stage, shape)
        return max(work[stage] / max(1, capacity.get(stage, 0)) for stage in Stage)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
