"""Who drives a denoising: answers its networks' calls, hears of its steps, and says when to park.

On a worker that is the hub, by a strand for each request. `Direct` needs neither: it computes at once, for one request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffusion_worker.model.calls import Call
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.model.types import OnStep


class Driver(Protocol):
    """One denoising's."""

    @property
    def gathers(self) -> bool:
        """Whether the calls of guidance's branches are to be asked at once."""

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """What each call returns. Raises what a network raised, and what is to end the denoising."""

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        """Told after each step, 1-based. True: park here. What it raises ends the denoising.

        checkpoint: makes what would go on from here, for one that goes on too: of use until this returns, since the
        denoising changes what it refers to. Raises what can't be carried.
        """


@dataclass
class Direct:
    """Computes at once. `park_at`: after which step to park."""

    on_step: OnStep = lambda _step, _steps: None
    gathers: bool = False
    park_at: int | None = None
    forwards: Forwards = field(default_factory=Forwards)

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        answers: dict[Call, Any] = {}
        for key in dict.fromkeys(call.key for call in calls):
            alike = [call for call in calls if call.key == key]
            answers |= zip(alike, self.forwards.run_own(alike), strict=True)
        for answer in answers.values():
            if isinstance(answer, Exception):
                raise answer
        return [answers[call] for call in calls]

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        self.on_step(step, steps)
        return step == self.park_at
