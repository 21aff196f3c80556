"""A job that was accepted, and what became of it and of the work that was done for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diffusion_router.core import FailureKind, JobStatus, Stage
from dpipe.simulate.fleet import Shape
from dpipe.simulate.load import Request

_STAGES: Final = tuple(Stage)


class Job:
    """As long as it has not ended. target: seconds from its arrival in which it should end. predicted: in which it was
    thought to, when it was accepted; 0: nobody could know, or it is not its request's last."""

    __slots__ = (
        "again_seconds",
        "again_steps",
        "batch",
        "id",
        "key",
        "label",
        "parks",
        "predicted",
        "reached",
        "request",
        "shape",
        "solo",
        "steps",
        "target",
    )

    def __init__(self, job_id: str, request: Request, shape: Shape, *, key: str, target_factor: float) -> None:
        self.id = job_id
        self.request = request
        self.shape = shape
        self.key = key
        self.steps = request.steps or shape.steps
        self.label = shape.name if self.steps == shape.steps else f"{shape.name}/{self.steps}"
        """By which the router tells how long it takes."""
        self.batch = "+".join([shape.name, *sorted(request.adapters)])
        """Denoisings of one batch share forwards."""
        self.solo = request.scale * shape.solo(self.steps)
        self.target = target_factor * self.solo
        self.parks = 0
        self.predicted = 0.0
        self.again_steps = 0
        self.again_seconds = 0.0
        # By stage, the step that it has ever come to.
        self.reached = [0.0, 0.0, 0.0]

    def seconds(self, stage: Stage) -> float:
        return self.request.scale * self.shape.seconds(stage, self.steps)

    def computed(self, stage: Stage, first: float, done: float, seconds: float) -> None:
        """A task of this stage went from one step to another. What had been done before is counted as done again."""
        reached = self.reached[stage - 1]
        again = min(done, reached) - first
        if again > 0:
            self.again_seconds += again * seconds
            if stage is Stage.DENOISE:
                self.again_steps += int(again)
        self.reached[stage - 1] = max(reached, done)


@dataclass(frozen=True, slots=True)
class End:
    """What is kept of a job that has ended. solo: seconds that it takes alone."""

    shape: str
    tenant: str
    priority: int
    arrived: float
    ended: float
    solo: float
    target: float
    status: JobStatus
    kind: FailureKind
    adapted: bool
    """It named an adapter."""
    predicted: float
    """As the job's."""

    @property
    def seconds(self) -> float:
        return self.ended - self.arrived

    @property
    def in_time(self) -> bool:
        """It completed within its target."""
        return self.status is JobStatus.COMPLETED and self.seconds <= self.target + 1e-9
