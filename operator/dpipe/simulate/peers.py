"""Simulated workers: they pull, wait, compute in steps, report, park, drain and come back as the real ones do.

What a worker computes at once goes on by rounds, in each of which every task makes one step, those of one batch
together, as the batch curve says. Of denoisings the first in order leads, and none makes a step that shares no forward
with it. Nothing happens between two moments at which a worker has something to say, so that is all that is on the
agenda.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from diffusion_router.core import (
    Action,
    Adapters,
    CancelTask,
    Event,
    Execute,
    FailureKind,
    ForwardTime,
    HeldTask,
    InputReceived,
    Parked,
    ParkTask,
    PeerDrained,
    PeerHeartbeat,
    PeerRegistered,
    Process,
    Progressed,
    RefusalReason,
    Refuse,
    ReleaseSlot,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
)
from dpipe.simulate.fleet import Fleet, Group
from dpipe.simulate.held import Held, Kept, Loaded, Phase
from dpipe.simulate.jobs import Job

# Between two reports of one task's steps, as in the real worker.
REPORT_SECONDS: Final = 0.05
# Between two reports of what is loaded, where that has changed.
TOLD_SECONDS: Final = 5.0
_NEAR: Final = 1e-6


class World(Protocol):
    """What a worker needs of what is around it."""

    now: float
    fleet: Fleet

    def later(self, seconds: float, do: Callable[[Any, int], None], what: Any, version: int) -> None: ...

    def up(self, worker: Worker, event: Event[Kept]) -> None: ...

    def keeps(self, kept: Kept) -> bool: ...

    def incarnation(self) -> str: ...

    def gone(self, worker: Worker) -> None: ...


class Worker:
    """One pod, through all its processes.

    line: the stream that it has open; each has another number. latency: seconds that a message takes on it, either way.
    life: counts its processes. back: once it has left, seconds until the next starts.
    """

    def __init__(self, world: World, group: Group, name: str, adapters: frozenset[str]) -> None:
        self.world = world
        self.group = group
        self.name = name
        self.slow = 1.0
        self.alive = False
        self.attached = False
        self.busy_seconds = 0.0
        self.loads = self.parks = 0
        self.computed = dict.fromkeys(group.stages, 0)
        self.version = 0
        self.line = 0
        self.latency = 0.0
        self.life = 0
        self.back = 0.0
        self._offered = adapters if Stage.DENOISE in group.stages else frozenset[str]()
        self.start()

    def start(self) -> None:
        """A new process."""
        self.life += 1
        self.alive, self.draining, self.leaving = True, False, False
        self.slow = 1.0
        self.incarnation = self.world.incarnation()
        self.process = Process(self.name, self.world.now)
        self.tasks: dict[str, Held] = {}
        self.running: list[Held] = []
        # Those of them that make steps just now.
        self._computing: list[Held] = []
        # What a step took, by what it was of and how many shared it; and what of that it has still to tell.
        self._measured: dict[tuple[str, int], float] = {}
        self._untold: dict[tuple[str, int], float] = {}
        self.outputs: dict[str, StageResult[Kept]] = {}
        self._loaded = Loaded(self.world.fleet.memory.room)
        self._telling = False
        self._since, self._round, self._arrived = self.world.now, 0.0, 0
        self.version += 1

    # ------------------------------------------------------------ what it says

    def registration(self) -> PeerRegistered[Kept]:
        held = [
            HeldTask(
                held.task.task_id,
                held.task.job_id,
                held.task.stage,
                held.phase in (Phase.RUNNING, Phase.PARKING),
                held.task.input.task_id if held.task.input is not None else "",
                held.task.copy,
            )
            for held in self.tasks.values()
        ]
        return PeerRegistered(
            self.incarnation,
            self.group.stages,
            pod_name=self.name,
            generation="g",
            mode="tcp",
            model="m",
            capacity=self.group.capacity,
            slots=self.group.slots,
            draining=self.draining,
            process=self.process,
            adapters=self._adapters(),
            copies=True,
            tasks=tuple(held),
            outputs=tuple(self.outputs.values()),
        )

    def heartbeat(self) -> None:
        untold, self._untold = self._untold, {}
        forwards = tuple(ForwardTime(of, number, seconds) for (of, number), seconds in untold.items())
        self.world.up(self, PeerHeartbeat(self.incarnation, self.draining, forwards=forwards))

    def _adapters(self) -> Adapters:
        return Adapters(self._offered, frozenset(self._loaded))

    def _tell_adapters(self, _: Any, process: int) -> None:
        if self.alive and process == id(self.process):
            self._telling = False
            self.world.up(self, PeerHeartbeat(self.incarnation, self.draining, self._adapters()))

    def _fail(self, held: Held, kind: FailureKind) -> None:
        self._forget(held)
        self.world.up(self, StageFailed(self.incarnation, held.task.task_id, kind, kind.name.lower()))

    # ------------------------------------------------------------ what it is told

    def obey(self, command: Action[Kept], job: Job | None) -> None:
        """job: an Execute's."""
        match command:
            case Execute():
                assert job is not None
                self._take(command, job)
            case CancelTask():
                self._cancel(command)
            case ParkTask():
                held = self.tasks.get(command.task_id)
                if held is not None and held.phase is Phase.RUNNING and held.task.stage is Stage.DENOISE:
                    held.park = True
                    self._settle()
                    self._retime()
            case ReleaseSlot():
                self.outputs.pop(command.task_id, None)
                self._leave_if_empty()
            case Refuse(reason=RefusalReason.FENCED):
                self.lose_everything()
                self.incarnation = self.world.incarnation()

    def _take(self, task: Execute[Kept], job: Job) -> None:
        self._arrived += 1
        held = Held(task, job, self._arrived)
        self.tasks[task.task_id] = held
        source = task.input
        if self.draining:
            self._fail(held, FailureKind.HANDED_BACK)
        elif source is not None and source.incarnation != self.incarnation:
            held.phase = Phase.PULLING
            self.world.later(self.world.fleet.transfer, self._pulled, held, 0)
        else:
            self._begin()

    def _pulled(self, held: Held, _: int) -> None:
        if self.tasks.get(held.task.task_id) is not held:
            return
        source = held.task.input
        if source is None or not self.world.keeps(source):
            self._fail(held, FailureKind.TRANSFER)
            return
        if held.task.copy:
            self._copied(held, source)
            return
        held.phase = Phase.WAITING
        self.world.up(self, InputReceived(self.incarnation, held.task.task_id))
        self._begin()

    def _cancel(self, command: CancelTask) -> None:
        held = self.tasks.get(command.task_id)
        if held is None or held.phase is Phase.PARKING:
            return
        if held.phase is not Phase.RUNNING:
            self._fail(held, FailureKind.HANDED_BACK if command.only_if_waiting else FailureKind.CANCELLED)
        elif command.only_if_waiting:
            return
        elif held not in self._computing:
            self._fail(held, FailureKind.CANCELLED)
        else:
            held.stop = True
            self._settle()
            self._retime()

    def drain(self) -> None:
        """SIGTERM: takes nothing more, gives back what does not run yet."""
        self.draining = True
        self.heartbeat()
        for held in [held for held in self.tasks.values() if held.phase in (Phase.PULLING, Phase.WAITING)]:
            self._fail(held, FailureKind.HANDED_BACK)
        self._leave_if_empty()

    def fail_one(self, kind: FailureKind) -> Held | None:
        """Something goes wrong in a task that runs."""
        if not self.running:
            return None
        self._settle()
        held = self.running[0]
        self._fail(held, kind)
        self._retime()
        self._begin()
        return held

    def set_pace(self, slow: float) -> None:
        """Its steps take so many times as long from now on."""
        self._settle()
        self.slow = slow
        self._retime()

    def die(self) -> None:
        self.lose_everything()
        self.alive = False

    def lose_everything(self) -> None:
        self._settle()
        for held in list(self.tasks.values()):
            self._forget(held)
        self.outputs.clear()
        self.version += 1

    def _leave_if_empty(self) -> None:
        if self.draining and not self.leaving and not self.tasks and not self.outputs and self.attached:
            self.leaving = True
            self.world.up(self, PeerDrained(self.incarnation))
            self.world.gone(self)

    # ------------------------------------------------------------ compute

    def _begin(self) -> None:
        """What waits is begun as far as there are places, in the order that it was given."""
        while len(self.running) < self.group.capacity:
            waiting = [held for held in self.tasks.values() if held.phase is Phase.WAITING]
            if not waiting:
                return
            held = waiting[0] if len(waiting) == 1 else min(waiting, key=_turn)
            together = [*self.running, held] if self.running else ()
            if any(other.task.alone for other in together):
                return
            self._settle()
            held.phase = Phase.RUNNING
            held.begun = self.world.now
            extra = self._load(held)
            if extra and held.seconds:
                # It is computed beside the steps: as if the task had so much more to do before its first.
                held.done -= extra / held.seconds
            self.running.append(held)
            self._say_step(held, 0)
            self._retime()

    def _load(self, held: Held) -> float:
        """Seconds until its adapters are loaded."""
        adapters = held.job.request.adapters if held.task.stage is Stage.DENOISE else frozenset[str]()
        loads = self._loaded.take(adapters)
        self.loads += loads
        if loads and not self._telling:
            self._telling = True
            wait = TOLD_SECONDS - self.world.now % TOLD_SECONDS
            self.world.later(wait, self._tell_adapters, None, id(self.process))
        return loads * self.world.fleet.memory.load_seconds

    def _say_step(self, held: Held, step: int) -> None:
        denoises = held.task.stage is Stage.DENOISE
        self.world.up(self, Progressed(self.incarnation, held.task.task_id, step, held.steps, resumable=denoises))

    def _settle(self) -> None:
        """Brings what has been done up to now."""
        now = self.world.now
        passed = now - self._since
        self._since = now
        if passed > 0 and self.running:
            self.busy_seconds += passed
            if self._round > 0:
                for held in self._computing:
                    held.done += passed / self._round

    def _retime(self) -> None:
        """Another moment is the next at which there is something to say. To be called when all is settled."""
        self.version += 1
        self._computing = self._who_computes()
        if not self._computing:
            return
        self._round = self.slow * self._seconds_of_a_round()
        self._wait_for_step()

    def _wait_for_step(self) -> None:
        soonest = min([self._aim(held) - held.done for held in self._computing])
        self.world.later(soonest * self._round, self._step, None, self.version)

    def _who_computes(self) -> list[Held]:
        if len(self.running) < 2:
            return self.running.copy()
        denoisings = [held for held in self.running if held.task.stage is Stage.DENOISE]
        lead = min(denoisings, key=_turn).batch if denoisings else ""
        return [held for held in self.running if held.task.stage is not Stage.DENOISE or held.batch == lead]

    def _seconds_of_a_round(self) -> float:
        denoised = [held.seconds for held in self._computing if held.task.stage is Stage.DENOISE]
        others = sum(held.seconds for held in self._computing if held.task.stage is not Stage.DENOISE)
        if not denoised:
            return others
        number = len(denoised)
        seconds = self.group.together(number) * sum(denoised) / number
        if self.group.capacity > 1:
            batch = next(held.batch for held in self._computing if held.task.stage is Stage.DENOISE)
            self._measure(batch, number, seconds)
        return others + seconds

    def _measure(self, batch: str, number: int, seconds: float) -> None:
        if self._measured.get((batch, number)) != seconds:
            self._measured[batch, number] = self._untold[batch, number] = seconds

    def _aim(self, held: Held) -> int:
        """The step after which there is something to say of it."""
        made = max(held.first, int(held.done + _NEAR))
        if held.stop or held.park:
            held.next = min(held.next, made + 1) if held.next > made else made + 1
        elif held.next <= made:
            many = max(1, math.ceil(REPORT_SECONDS / self._round - _NEAR)) if self._round > 0 else held.steps
            held.next = min(held.steps, made + many)
        return held.next

    def _step(self, _: Any, version: int) -> None:
        if version != self.version:
            return
        self._settle()
        there = [held for held in self._computing if held.done >= held.next - _NEAR or not self._round]
        goes_on = True
        for held in there:
            held.done = float(held.next)
            if not (held.stop or held.park or held.next >= held.steps):
                self._say_step(held, held.next)
                continue
            goes_on = False
            if held.stop:
                self._fail(held, FailureKind.CANCELLED)
            elif held.next >= held.steps:
                self._finish(held)
            else:
                held.phase = Phase.PARKING
                self.running.remove(held)
                self.world.later(self.world.fleet.park, self._parked, held, 0)
        if goes_on:
            self._wait_for_step()
        else:
            self._retime()
        if len(self.running) < self.group.capacity:
            self._begin()
            self._leave_if_empty()

    def _finish(self, held: Held) -> None:
        task = held.task
        self._forget(held)
        self.computed[task.stage] += 1
        kept = Kept(self.incarnation, task.task_id)
        seconds = self.world.now - held.begun
        forwards = held.batch if task.stage is Stage.DENOISE else ""
        self._report(StageResult(task.task_id, task.job_id, task.stage, kept, seconds, forwards=forwards))

    def _copied(self, held: Held, source: Kept) -> None:
        task = held.task
        self._forget(held)
        kept = Kept(self.incarnation, task.task_id, source.step)
        parked = Parked(source.step, held.steps) if source.step else None
        self._report(StageResult(task.task_id, task.job_id, task.stage, kept, parked=parked))

    def _parked(self, held: Held, _: int) -> None:
        task = held.task
        if self.tasks.get(task.task_id) is not held:
            return
        step = int(held.done)
        self._forget(held)
        self.parks += 1
        kept = Kept(self.incarnation, task.task_id, step)
        seconds = self.world.now - held.begun
        self._report(StageResult(task.task_id, task.job_id, task.stage, kept, seconds, Parked(step, held.steps)))
        self._begin()

    def _report(self, result: StageResult[Kept]) -> None:
        self.outputs[result.task_id] = result
        self.world.up(self, StageDone(self.incarnation, result))

    def _forget(self, held: Held) -> None:
        """The task is over, however it ended; what was computed of it is counted."""
        del self.tasks[held.task.task_id]
        if held.phase in (Phase.RUNNING, Phase.PARKING):
            held.job.computed(held.task.stage, held.first, held.done, held.seconds)
        if held.phase is Phase.RUNNING:
            self.running.remove(held)


def _turn(held: Held) -> tuple[float, int]:
    return held.task.order, held.arrived
