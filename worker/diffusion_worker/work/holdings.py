"""What a worker holds for the router, and how tasks end: the tasks that have not, and what the others left.

Whatever the router may have missed is here until it is known to have it, so that a broken stream loses no word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import structlog

from diffusion_worker.metrics import Metrics
from diffusion_worker.model.types import InvalidRequest
from diffusion_worker.transport import Slot, TransportError
from diffusion_worker.work import reports
from diffusion_worker.work.outcomes import Failures, Outputs
from diffusion_worker.work.store import StoreRefused
from diffusion_worker.work.tasks import DeadlinePassed, State, Task, classify
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage, word

log = structlog.get_logger()


class Holdings:
    """`send` queues a report for the router, `free` gives a slot back to the pool."""

    def __init__(
        self, metrics: Metrics, send: Callable[[peer_pb2.PeerReport], None], free: Callable[[Slot], None]
    ) -> None:
        self.tasks: dict[str, Task] = {}
        """Those that have not ended."""
        self.outputs = Outputs(free)
        self._failures = Failures()
        self._metrics = metrics
        self._send = send
        self._free = free
        self._changed = asyncio.Event()

    def add(self, task: Task) -> None:
        self.tasks[task.id] = task
        self._metrics.of(task.stage).inflight.inc()

    def left_by(self, task_id: str) -> peer_pb2.PeerReport | None:
        """The report of a task that has ended, as long as it is remembered."""
        return self.outputs.report(task_id) or self._failures.report(task_id)

    # ------------------------------------------------------------ endings

    def stop(self, task: Task, kind: int, message: str) -> None:
        """End a task: at once, or when it computes, at its next boundary."""
        if task.state is State.ENDED:
            return
        if task.stop is None:
            task.stop = (kind, message)
        if task.state is State.RUNNING:
            if task.interrupt is not None:
                task.interrupt()
            return
        if task.work is not None:
            task.work.cancel()
        self.fail(task, *task.stop)

    def give_up(self, task: Task, kind: int, message: str) -> None:
        """End a task now, also one that computes: nothing of this worker's is used any more."""
        if task.stop is None:
            task.stop = (kind, message)
        if task.work is not None:
            task.work.cancel()
        self.fail(task, kind, message)

    def fail_with(self, task: Task, error: BaseException) -> None:
        """The client's mistakes are told to the client, the world's to the router; ours come with a traceback."""
        if task.state is not State.ENDED:
            if not isinstance(error, InvalidRequest | TransportError | StoreRefused | DeadlinePassed):
                log.error("stage_raised", **_ids(task), stage=task.stage.value, exc_info=error)
            self.fail(task, *classify(error))

    def fail(self, task: Task, kind: int, message: str) -> None:
        """Report a task's failure, unless it has ended already."""
        if task.state is State.ENDED:
            return
        self.drop_input(task)
        self._metrics.of(task.stage).failed(kind)
        self._end(task)
        report = reports.failed(task.id, kind, message)
        self._failures.add(task.held(), report)
        self._send(report)
        kind_word = word(stage_pb2.FailureKind, kind)
        log.info("task_failed", **_ids(task), stage=task.stage.value, kind=kind_word, error=message)

    def complete(self, task: Task, report: peer_pb2.StageDone, slot: Slot | None) -> None:
        """Keep what a task made, and report it."""
        self.outputs.keep(report, slot)
        self._metrics.of(task.stage).completed(copy=task.copies, parked=report.HasField("parked")).inc()
        self._end(task)
        self._send(peer_pb2.PeerReport(stage_done=report))
        words = {**_ids(task), "stage": task.stage.value, "seconds": round(task.timings.compute_seconds, 4)}
        if not report.HasField("parked"):
            log.info("task_done", **words)
            return
        assert task.park_at is not None, "nobody parks by itself"
        self._metrics.stages[task.stage].park_duration.observe(time.monotonic() - task.park_at)
        log.info("task_parked", **words, step=task.step, steps=task.steps)

    def keep_beside(self, task: Task, report: peer_pb2.StageDone, slot: Slot) -> None:
        """Keep what was made of a task that goes on, and report it. Nobody needs it of one that has ended meanwhile."""
        if task.state is State.ENDED:
            self._free(slot)
            return
        self.outputs.keep(report, slot)
        self._send(peer_pb2.PeerReport(stage_done=report))

    def drop_input(self, task: Task) -> None:
        """What was pulled for this task goes; what another task of this worker made stays until it is released."""
        slot, source = task.slot, task.source
        task.slot = task.source = None
        if source is not None:
            self.outputs.done_reading(source)
        elif slot is not None:
            self._free(slot)

    def _end(self, task: Task) -> None:
        del self.tasks[task.id]
        task.state = State.ENDED
        self._metrics.of(task.stage).inflight.dec()
        if task.timer is not None:
            task.timer.cancel()
        self._changed.set()

    # ------------------------------------------------------------ what the router knows of it

    def release(self, task_id: str) -> None:
        """Nobody needs this task's output any more."""
        self.outputs.release(task_id)
        self._changed.set()

    def failure_sent(self, task_id: str) -> None:
        self._failures.sent(task_id)

    def registered(self) -> tuple[list[peer_pb2.HeldTask], list[peer_pb2.StageDone]]:
        """For a registration: tasks that have not ended, as far as the router can know, and outputs not released."""
        tasks = [task.held() for task in self.tasks.values()] + [task for task, _ in self._failures.unsent()]
        return tasks, self.outputs.reports()

    def unsettled(self) -> Iterator[peer_pb2.PeerReport]:
        """What the router may have missed while it was away, beyond what a registration says."""
        for task in self.tasks.values():
            if task.started:
                yield reports.progress(task)
            elif task.state is State.WAITING and task.stage is not Stage.ENCODE:
                yield reports.input_received(task)
        for _, report in self._failures.unsent():
            yield report

    async def empty(self, *, outputs: bool, timeout: float) -> bool:
        """Wait until no task is left, and with `outputs` no output either. False: not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.tasks or (outputs and self.outputs):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def forget(self) -> None:
        """Drop outputs and failures: the router gave this incarnation up."""
        self.outputs.release_all()
        self._failures.clear()
        self._changed.set()


def _ids(task: Task) -> dict[str, str]:
    return {"job_id": task.job_id, "task_id": task.id}
