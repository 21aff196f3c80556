"""A denoising's driver on a worker: a strand of the hub, which asks, and a task, which is told of steps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion_worker.model.batching import Company
from diffusion_worker.model.calls import Call
from diffusion_worker.model.types import Values
from diffusion_worker.work.strand import Ask


@dataclass
class TaskDriver:
    """Implements Driver. `on_step` raises StepCancelled to end it; `parks` is asked at the end of each step, and `keep`
    is told of those at which it does not."""

    asks: Ask
    on_step: Callable[[int, int], None]
    company: Company
    parks: Callable[[], bool] = lambda: False
    keep: Callable[[Values, int, int, Callable[[], object]], None] = lambda *_: None
    values: Values = field(default_factory=dict)
    """What the denoising began with."""
    asked_at: float | None = None
    """When it first called a network, by `time.perf_counter`."""
    tokens: Counter[str] = field(default_factory=Counter)
    """That its calls had, by what they were of."""

    @property
    def gathers(self) -> bool:
        return self.company is not Company.NONE

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        if self.asked_at is None:
            self.asked_at = time.perf_counter()
        for call in calls:
            self.tokens[call.shape] += call.tokens
        return self.asks(calls)

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        # Asked before the step is told of: who hears of it, and then says to park, means the next one.
        parks = self.parks()
        self.on_step(step, steps)
        if not parks:
            self.keep(self.values, step, steps, checkpoint)
        return parks
