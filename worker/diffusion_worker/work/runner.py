"""The tasks that the router gave this worker: fetched side by side, computed one at a time, kept until released.

All of it runs on the event loop and shares no state with other threads, but for what `Task` names; the compute thread
is handed one stage at a time. A task costs two hops between threads: to the compute thread, and back.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from itertools import count
from typing import Final

import structlog

from diffusion_worker.link import reports
from diffusion_worker.link.artifacts import Artifacts
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.types import InvalidRequest, Media, StageModel
from diffusion_worker.payload import Plan
from diffusion_worker.transport import Slot, StaleDescriptor, Transport, TransportError, to_wire
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.inputs import Inputs, mismatch
from diffusion_worker.work.outcomes import Failures, Outputs
from diffusion_worker.work.progress import StepReports
from diffusion_worker.work.stages import Files, NoRoom, Published, Result, publish, run_stage
from diffusion_worker.work.tasks import DeadlinePassed, State, StoreRefused, Task, classify
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage, number, word

CANCEL_SECONDS: Final = 10.0

_STAGES: Final = {number(stage_pb2.Stage, stage): stage for stage in Stage}
_RANK: Final = {Stage.DECODE: 0, Stage.DENOISE: 1, Stage.ENCODE: 2}
_HANDED_BACK: Final = (stage_pb2.FAILURE_KIND_HANDED_BACK, "this worker is leaving")

log = structlog.get_logger()


class Runner:
    """Carries out the router's commands. `send` queues a report for the router and must not block."""

    def __init__(
        self,
        *,
        model: StageModel,
        transport: Transport,
        artifacts: Artifacts,
        compute: ComputeThread,
        metrics: Metrics,
        send: Callable[[peer_pb2.PeerReport], None],
        generation: str,
        max_input_bytes: int,
        max_input_pixels: int,
    ) -> None:
        self._model = model
        self._pool = transport.pool
        self._inputs = Inputs(transport, artifacts, max_bytes=max_input_bytes)
        self._artifacts = artifacts
        self._compute = compute
        self._metrics = metrics
        self._send = send
        self._steps = StepReports(compute, metrics, send)
        self._generation = generation
        self._pixels = max_input_pixels
        self._loop = asyncio.get_running_loop()
        self._arrivals = count()
        self._tasks: dict[str, Task] = {}
        self._outputs = Outputs(self._inputs.release)
        self._failures = Failures()
        self._waiting: list[Task] = []
        self._running: Task | None = None
        self._works: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.draining = False

    # ------------------------------------------------------------ commands

    def execute(self, command: peer_pb2.Execute) -> None:
        """Takes a task on. One that is known is not run again: what it left is reported once more."""
        if command.task_id in self._tasks:
            return
        known = self._outputs.report(command.task_id) or self._failures.report(command.task_id)
        if known is not None:
            self._send(known)
            return
        stage = _STAGES.get(command.stage)
        if stage is None or stage not in self._model.stages:
            kind = stage_pb2.FAILURE_KIND_INCOMPATIBLE
            self._send(reports.failed(command.task_id, kind, f"stage {command.stage} is none of this worker's"))
            return
        now = self._loop.time()
        task = Task(
            id=command.task_id,
            job_id=command.job_id,
            stage=stage,
            execute=command,
            order=(_RANK[stage], next(self._arrivals)),
            deadline=now + command.deadline_seconds,
        )
        self._tasks[task.id] = task
        self._metrics.stages[stage].inflight.inc()
        passed = (stage_pb2.FAILURE_KIND_DEADLINE, "the job's deadline passed")
        task.timer = self._loop.call_at(task.deadline, self._stop, task, *passed)
        self._accept(task)

    def _accept(self, task: Task) -> None:
        command = task.execute
        if self.draining:
            self._fail(task, *_HANDED_BACK)
        elif command.deadline_seconds <= 0:
            self._fail(task, stage_pb2.FAILURE_KIND_DEADLINE, "the job's deadline passed before its task arrived")
        elif task.stage is Stage.ENCODE:
            if command.parameters.inputs:
                self._begin(task, self._download(task))
            else:
                self._ready(task)
        elif reason := mismatch(self._generation, command.input):
            self._fail(task, stage_pb2.FAILURE_KIND_INCOMPATIBLE, reason)
        elif command.input.incarnation == self._pool.incarnation:
            self._use_own(task)
        else:
            self._begin(task, self._pull(task))

    def cancel(self, task_id: str, *, only_if_waiting: bool) -> None:
        task = self._tasks.get(task_id)
        if task is None:
            return
        if not only_if_waiting:
            self._stop(task, stage_pb2.FAILURE_KIND_CANCELLED, "cancelled")
        elif not task.started:
            self._stop(task, stage_pb2.FAILURE_KIND_HANDED_BACK, "given back before it was started")

    def release(self, task_id: str) -> None:
        """Nobody needs this task's output any more."""
        self._outputs.release(task_id)
        self._changed.set()

    # ------------------------------------------------------------ what a registration says

    def held(self) -> tuple[list[peer_pb2.HeldTask], list[peer_pb2.StageDone]]:
        """Tasks that have not ended, as far as the router can know, and outputs that it has not released."""
        tasks = [task.held() for task in self._tasks.values()] + [task for task, _ in self._failures.unsent()]
        return tasks, self._outputs.reports()

    def unsettled(self) -> Iterator[peer_pb2.PeerReport]:
        """What the router may have missed while it was away, beyond what a registration says."""
        for task in self._tasks.values():
            if task.started:
                yield reports.progress(task)
            elif task.state is State.WAITING and task.stage is not Stage.ENCODE:
                yield reports.input_received(task)
        for _, report in self._failures.unsent():
            yield report

    def failure_sent(self, task_id: str) -> None:
        self._failures.sent(task_id)

    # ------------------------------------------------------------ leaving

    def drain(self) -> None:
        """Take nothing more, hand back what has not been started. What runs goes on; outputs stay."""
        self.draining = True
        for task in list(self._tasks.values()):
            if not task.started:
                self._stop(task, *_HANDED_BACK)

    def hand_back(self) -> None:
        """Also what runs, at its next boundary."""
        for task in list(self._tasks.values()):
            self._stop(task, *_HANDED_BACK)

    async def empty(self, *, outputs: bool, timeout: float) -> bool:
        """Wait until no task is left, and with `outputs` no output either. False: not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._tasks or self._running is not None or (outputs and self._outputs):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def abandon(self, incarnation: str) -> None:
        """The router gave this worker's work to others: drop all of it, and be a new peer.

        Returns when nothing of the old incarnation computes or moves any more. A stage can't be interrupted between
        two boundaries, so that is the stage's to say.
        """
        for task in list(self._tasks.values()):
            self._stop(task, stage_pb2.FAILURE_KIND_CANCELLED, "fenced")
        if self._works:
            await asyncio.wait(self._works, timeout=CANCEL_SECONDS)
        while not await self.empty(outputs=False, timeout=CANCEL_SECONDS):
            log.warning("waiting_for_compute_to_stop", tasks=sorted(self._tasks))
        self._outputs.release_all()
        self._failures.clear()
        self._pool.reincarnate(incarnation)
        self._inputs.forget_peers()

    # ------------------------------------------------------------ inputs

    def _begin(self, task: Task, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the compute thread. What it raises is the task's failure."""
        task.work = self._loop.create_task(work)
        self._works.add(task.work)
        task.work.add_done_callback(partial(self._finished, task))

    def _finished(self, task: Task, work: asyncio.Task[None]) -> None:
        self._works.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            self._fail_with(task, error)

    def _use_own(self, task: Task) -> None:
        wanted = task.execute.input
        source = self._outputs.read(wanted)
        if source is None:
            place = f"slot {wanted.slot} generation {wanted.slot_generation}"
            self._fail_with(task, StaleDescriptor(f"{place} of this worker's own pool does not hold this output"))
            return
        task.source, task.slot = source, source.slot
        self._ready(task)

    async def _pull(self, task: Task) -> None:
        slot = await self._inputs.pull(task, self._metrics.stages[task.stage])
        if self._tasks.get(task.id) is not task:
            self._inputs.release(slot)
            return
        task.slot = slot
        self._ready(task)

    async def _download(self, task: Task) -> None:
        task.files = await self._inputs.download(task)
        self._ready(task)

    # ------------------------------------------------------------ computing

    def _ready(self, task: Task) -> None:
        task.state = State.WAITING
        task.ready_at = time.monotonic()
        heapq.heappush(self._waiting, task)
        self._start_next()
        # A task that starts at once says so instead: every message costs as much as all else that is done for a task.
        if task.state is State.WAITING and task.stage is not Stage.ENCODE:
            self._send(reports.input_received(task))

    def _start_next(self) -> None:
        while self._running is None and self._waiting:
            task = heapq.heappop(self._waiting)
            if self._tasks.get(task.id) is not task:
                continue
            now = time.monotonic()
            task.timings.wait_seconds = now - task.ready_at
            task.step_at = now
            task.state = State.RUNNING
            # Said before anything is computed: should the model end this process, the router must know which job did.
            self._send(reports.progress(task))
            stage = self._metrics.stages[task.stage]
            on_step = partial(self._steps.on_step, task)
            self._run(task, partial(run_stage, task, self._model, self._pool, on_step, stage, self._pixels))

    def _run(self, task: Task, work: Callable[[], Result]) -> None:
        self._running = task
        self._compute.submit(work, partial(self._computed, task))

    def _computed(self, task: Task, result: Result | None, error: BaseException | None) -> None:
        self._running = None
        self._drop_input(task)
        if task.stop is not None:
            if isinstance(result, Published):
                self._inputs.release(result.slot)
            self._fail(task, *task.stop)
        elif error is not None:
            self._fail_with(task, error)
        else:
            self._steps.flush(task)
            self._publish(task, result)
        self._start_next()

    # ------------------------------------------------------------ outputs

    def _publish(self, task: Task, result: Result | None) -> None:
        task.timings.steps = task.steps
        match result:
            case Published(slot, descriptor):
                report = reports.done(task)
                report.output.CopyFrom(to_wire(descriptor, self._generation))
                self._keep(task, report, slot)
            case NoRoom(plan):
                task.state = State.PUBLISHING
                self._begin(task, self._publish_later(task, plan))
            case Files(media):
                task.state = State.PUBLISHING
                self._begin(task, self._upload(task, media))

    async def _publish_later(self, task: Task, plan: Plan) -> None:
        """Computed, but the pool is full: wait for room aside, so that tasks that make room can be computed."""
        slot = await self._inputs.lease(task, plan.nbytes)
        self._compute.submit(partial(publish, plan, slot, self._pool), partial(self._written, task))

    def _written(self, task: Task, result: Published | None, error: BaseException | None) -> None:
        if self._tasks.get(task.id) is not task:
            if result is not None:
                self._inputs.release(result.slot)
        elif error is not None:
            self._fail_with(task, error)
        else:
            self._publish(task, result)

    async def _upload(self, task: Task, media: list[Media]) -> None:
        begun = time.monotonic()
        report = reports.done(task)
        for index, one in enumerate(media):
            artifact = await self._artifacts.upload(
                job_id=task.job_id, task_id=task.id, index=index, media=one, deadline=task.deadline
            )
            report.artifacts.append(artifact)
        report.timings.publish_seconds = time.monotonic() - begun
        self._keep(task, report, None)

    def _keep(self, task: Task, report: peer_pb2.StageDone, slot: Slot | None) -> None:
        self._outputs.keep(report, slot)
        self._metrics.stages[task.stage].done.inc()
        self._forget(task)
        self._send(peer_pb2.PeerReport(stage_done=report))
        log.info("task_done", **_ids(task), stage=task.stage.value, seconds=round(task.timings.compute_seconds, 4))

    # ------------------------------------------------------------ endings

    def _stop(self, task: Task, kind: int, message: str) -> None:
        """End a task: at once, or when it computes, at its next boundary."""
        if self._tasks.get(task.id) is not task:
            return
        if task.stop is None:
            task.stop = (kind, message)
        if task.state is State.RUNNING:
            return
        if task.work is not None:
            task.work.cancel()
        self._drop_input(task)
        self._fail(task, *task.stop)

    def _fail_with(self, task: Task, error: BaseException) -> None:
        """The client's mistakes are told to the client, the world's to the router; ours come with a traceback."""
        if self._tasks.get(task.id) is task:
            if not isinstance(error, InvalidRequest | TransportError | StoreRefused | DeadlinePassed):
                log.error("stage_raised", **_ids(task), stage=task.stage.value, exc_info=error)
            self._fail(task, *classify(error))

    def _fail(self, task: Task, kind: int, message: str) -> None:
        """Report a task's failure, unless it has ended already."""
        if self._tasks.get(task.id) is not task:
            return
        self._drop_input(task)
        self._metrics.stages[task.stage].failed(kind)
        self._forget(task)
        report = reports.failed(task.id, kind, message)
        self._failures.add(task.held(), report)
        self._send(report)
        kind_word = word(stage_pb2.FailureKind, kind)
        log.info("task_failed", **_ids(task), stage=task.stage.value, kind=kind_word, error=message)

    def _forget(self, task: Task) -> None:
        del self._tasks[task.id]
        task.state = State.ENDED
        self._metrics.stages[task.stage].inflight.dec()
        if task.timer is not None:
            task.timer.cancel()
        self._changed.set()

    def _drop_input(self, task: Task) -> None:
        """What was pulled for this task goes; what another task of this worker made stays until it is released."""
        slot, source = task.slot, task.source
        task.slot = task.source = None
        if source is not None:
            self._outputs.done_reading(source)
        elif slot is not None:
            self._inputs.release(slot)


def _ids(task: Task) -> dict[str, str]:
    return {"job_id": task.job_id, "task_id": task.id}
