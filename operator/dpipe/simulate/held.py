"""What a simulated worker holds: tasks that have not ended, what those that have left, and adapters in its memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from diffusion_router.core import Execute, Stage
from dpipe.simulate.jobs import Job


@dataclass(frozen=True, slots=True)
class Kept:
    """What a stage left, and where. step: of a checkpoint, how far it had come; 0: it is none."""

    incarnation: str
    task_id: str
    step: int = 0


class Phase(Enum):
    PULLING = "pulling"
    WAITING = "waiting"
    RUNNING = "running"
    PARKING = "parking"


class Held:
    """A task that a worker was given and has not ended. done, steps: as far as it has come, and is to come."""

    __slots__ = (
        "arrived",
        "batch",
        "begun",
        "done",
        "first",
        "job",
        "next",
        "park",
        "phase",
        "seconds",
        "steps",
        "stop",
        "task",
    )

    def __init__(self, task: Execute[Kept], job: Job, arrived: int) -> None:
        self.task = task
        self.job = job
        self.arrived = arrived
        self.phase = Phase.WAITING
        self.batch = job.batch
        self.steps = job.steps if task.stage is Stage.DENOISE else 1
        # Of one step, on a peer that does nothing else.
        self.seconds = job.seconds(task.stage) / self.steps
        self.first = task.input.step if task.stage is Stage.DENOISE and task.input is not None else 0
        self.done = float(self.first)
        # The step after which there is something to say.
        self.next = self.first
        self.begun = 0.0
        self.park = self.stop = False


class Loaded:
    """Adapters, the one longest unused first; room: for how many there is memory."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._names: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def take(self, names: Iterable[str]) -> int:
        """They are used now. How many had to be loaded."""
        loads = 0
        for name in sorted(names):
            loads += name not in self._names
            self._names[name] = None
            self._names.move_to_end(name)
            if len(self._names) > self._room:
                self._names.popitem(last=False)
        return loads
