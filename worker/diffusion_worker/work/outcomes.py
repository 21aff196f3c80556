"""What tasks leave when they end: outputs, kept until the router releases them, and failures, kept until it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from diffusion_worker.transport import Slot
from diffusionpipeline.v1 import peer_pb2, stage_pb2

MAX_FAILURES: Final = 256


@dataclass(eq=False, slots=True)
class Output:
    """Reported at each registration until ReleaseSlot names the task."""

    report: peer_pb2.StageDone
    slot: Slot | None
    """None for files, which are in the artifact store."""
    readers: int = 0
    """Tasks of this worker that read straight from the slot."""
    released: bool = False


class Outputs:
    """By task, and by slot for tasks of this same worker. `free` gives a slot back to the pool."""

    def __init__(self, free: Callable[[Slot], None]) -> None:
        self._free = free
        self._by_task: dict[str, Output] = {}
        self._by_slot: dict[tuple[int, int], Output] = {}

    def __len__(self) -> int:
        return len(self._by_task)

    def keep(self, report: peer_pb2.StageDone, slot: Slot | None) -> None:
        output = Output(report, slot)
        self._by_task[report.task_id] = output
        if slot is not None:
            self._by_slot[slot.index, slot.generation] = output

    def report(self, task_id: str) -> peer_pb2.PeerReport | None:
        output = self._by_task.get(task_id)
        return None if output is None else peer_pb2.PeerReport(stage_done=output.report)

    def reports(self) -> list[peer_pb2.StageDone]:
        return [output.report for output in self._by_task.values()]

    def read(self, descriptor: stage_pb2.Descriptor) -> Output | None:
        """The output that a descriptor of this very incarnation names; its slot stays until `done_reading`."""
        output = self._by_slot.get((descriptor.slot, descriptor.slot_generation))
        if output is None or output.report.output != descriptor:
            return None
        output.readers += 1
        return output

    def done_reading(self, output: Output) -> None:
        output.readers -= 1
        self._settle(output)

    def release(self, task_id: str) -> None:
        output = self._by_task.pop(task_id, None)
        if output is not None:
            output.released = True
            self._settle(output)

    def release_all(self) -> None:
        for task_id in list(self._by_task):
            self.release(task_id)

    def _settle(self, output: Output) -> None:
        if output.released and not output.readers and output.slot is not None:
            del self._by_slot[output.slot.index, output.slot.generation]
            self._free(output.slot)


@dataclass(slots=True)
class _Failure:
    task: peer_pb2.HeldTask
    report: peer_pb2.PeerReport
    sent: bool = False


class Failures:
    """The latest ones. A failure that was not sent yet counts as a held task: else the router, to which the task would
    be unknown, could not tell it from one that never arrived."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def add(self, task: peer_pb2.HeldTask, report: peer_pb2.PeerReport) -> None:
        self._failures[task.task_id] = _Failure(task, report)
        if len(self._failures) > MAX_FAILURES:
            del self._failures[next(iter(self._failures))]

    def report(self, task_id: str) -> peer_pb2.PeerReport | None:
        failure = self._failures.get(task_id)
        return None if failure is None else failure.report

    def sent(self, task_id: str) -> None:
        if (failure := self._failures.get(task_id)) is not None:
            failure.sent = True

    def unsent(self) -> list[tuple[peer_pb2.HeldTask, peer_pb2.PeerReport]]:
        return [(failure.task, failure.report) for failure in self._failures.values() if not failure.sent]

    def clear(self) -> None:
        self._failures.clear()
