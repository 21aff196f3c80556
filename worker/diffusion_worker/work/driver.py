"""A denoising's driver on a worker: a strand of the hub, which asks, and a task, which is told of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffusion_worker.model.batching import Company
from diffusion_worker.work.strand import Ask


@dataclass(frozen=True)
class TaskDriver:
    """Implements Driver. `on_step` raises StepCancelled to end it."""

    ask: Ask
    on_step: Callable[[int, int], None]
    company: Company

    @property
    def gathers(self) -> bool:
        return self.company is not Company.NONE

    def step(self, step: int, steps: int) -> bool:
        self.on_step(step, steps)
        return False
