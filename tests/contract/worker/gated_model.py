"""A real model, of which a test can hold a denoising at the end of a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion_worker.model import Parameters, Values
from diffusion_worker.model.calls import Call
from diffusion_worker.model.driving import Driver
from testbed.waiting import eventually

DEADLINE = 60.0


@dataclass(frozen=True)
class Gate:
    """At the end of a step of the next denoising with this seed."""

    seed: int
    step: int
    _reached: threading.Event = field(default_factory=threading.Event)
    _opened: threading.Event = field(default_factory=threading.Event)

    async def reached(self) -> None:
        """Until the denoising stands there."""
        await eventually(self._reached.is_set, DEADLINE, f"the denoising stands at the end of step {self.step}")

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        self._reached.set()
        assert self._opened.wait(DEADLINE), "the test never let the denoising go on"


class GatedModel:
    """The model as it is, but for `denoise`, which stands still at gates: the compute thread with it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._gates: list[Gate] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def stop(self, seed: int, step: int) -> Gate:
        """A gate that is passed once."""
        self._gates.append(Gate(seed, step))
        return self._gates[-1]

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        made: Values = self._model.denoise(values, parameters, _Gated(driver, parameters.seed, self._gates))
        return made


@dataclass(frozen=True)
class _Gated:
    """Before the worker hears of the step, and says whether to park."""

    driver: Driver
    seed: int
    gates: list[Gate]

    @property
    def gathers(self) -> bool:
        return self.driver.gathers

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        return self.driver.ask(calls)

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        for gate in [one for one in self.gates if (one.seed, one.step) == (self.seed, step)]:
            self.gates.remove(gate)
            gate.wait()
        return self.driver.step(step, steps, checkpoint)
