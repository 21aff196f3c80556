"""The tasks that the router gave this worker, on their way: fetched side by side, computed, published.

All of it runs on the event loop and shares no state with other threads, but for what `Task` names. The compute thread
is handed one encode or decode at a time, and as many denoisings as may compute together. A task costs two hops between
threads: to the compute thread, and back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from itertools import count
from typing import Final

import structlog

from diffusion_worker.metrics import Metrics, StageMetrics
from diffusion_worker.model.batching import Batching, Company
from diffusion_worker.model.types import Media, StageModel, StepCancelled, Values, is_resumable
from diffusion_worker.transport import Descriptor, PoolFull, Slot, StaleDescriptor, Transport, from_wire, to_wire
from diffusion_worker.work import reports
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.driver import TaskDriver
from diffusion_worker.work.holdings import Holdings
from diffusion_worker.work.hub import Member
from diffusion_worker.work.inputs import Inputs, mismatch
from diffusion_worker.work.progress import StepReports
from diffusion_worker.work.room import Room
from diffusion_worker.work.snapshots import Snapshots
from diffusion_worker.work.stages import Files, NoRoom, Published, Result, TooMuch, publish, run_stage
from diffusion_worker.work.store import ArtifactStore
from diffusion_worker.work.strand import Ask, Strand
from diffusion_worker.work.tasks import MAX_MESSAGE_CHARS, State, Task
from diffusion_worker.work.waiting import Waiting
from diffusion_worker.work.watch import Doing
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage, number

CANCEL_SECONDS: Final = 10.0

_STAGES: Final = {number(stage_pb2.Stage, stage): stage for stage in Stage}
_RANK: Final = {Stage.DECODE: 0, Stage.DENOISE: 1, Stage.ENCODE: 2}
_DENOISES: Final = (State.RUNNING, State.PAUSED)
_HANDED_BACK: Final = (stage_pb2.FAILURE_KIND_HANDED_BACK, "this worker is leaving")

log = structlog.get_logger()


class Runner:
    """Carries out the router's commands. `send` queues a report for the router and must not block."""

    def __init__(
        self,
        *,
        model: StageModel,
        transport: Transport,
        artifacts: ArtifactStore,
        compute: ComputeThread,
        metrics: Metrics,
        send: Callable[[peer_pb2.PeerReport], None],
        generation: str,
        batching: Batching,
        max_input_bytes: int,
        max_input_pixels: int,
    ) -> None:
        self._model = model
        self._pool = transport.pool
        self._room = Room(transport.pool)
        self.inputs = Inputs(transport, self._room, artifacts, max_bytes=max_input_bytes)
        self._artifacts = artifacts
        self._compute = compute
        self._metrics = metrics
        self._send = send
        self._steps = StepReports(compute, metrics, send)
        self._generation = generation
        self._batching = batching
        self._pixels = max_input_pixels
        self._loop = asyncio.get_running_loop()
        self._arrivals = count()
        self._waiting = Waiting()
        self._denoisings_waiting = Waiting()
        self._piece: Task | None = None
        """An encode or decode that is computed, and whether the compute thread was told that one waits."""
        self._requested = False
        self._denoising: set[Task] = set()
        self._works: set[asyncio.Task[None]] = set()
        self.holdings = Holdings(metrics, send, self._room.release)
        self.snapshots = Snapshots(compute, transport.pool, metrics, self.holdings, send, generation)
        self.draining = False

    # ------------------------------------------------------------ commands

    def execute(self, command: peer_pb2.Execute) -> None:
        """Takes a task on. One that is known is not run again: what it left is reported once more."""
        if command.task_id in self.holdings.tasks:
            return
        known = self.holdings.left_by(command.task_id)
        if known is not None:
            self._send(known)
            return
        stage = _STAGES.get(command.stage)
        if stage is None or not (stage in self._model.stages or self._keeps(command, stage)):
            kind = stage_pb2.FAILURE_KIND_INCOMPATIBLE
            self._send(reports.failed(command.task_id, kind, f"stage {command.stage} is none of this worker's"))
            return
        task = Task(
            id=command.task_id,
            job_id=command.job_id,
            stage=stage,
            execute=command,
            order=(_RANK[stage], command.order, next(self._arrivals)),
            deadline=self._loop.time() + command.deadline_seconds,
            resumable=stage is Stage.DENOISE and not command.copy and self._is_resumable(command.parameters),
        )
        self.holdings.add(task)
        passed = (stage_pb2.FAILURE_KIND_DEADLINE, "the job's deadline passed")
        task.timer = self._loop.call_at(task.deadline, self.holdings.stop, task, *passed)
        self._accept(task)

    def _accept(self, task: Task) -> None:
        command = task.execute
        if self.draining:
            self.holdings.fail(task, *_HANDED_BACK)
        elif command.deadline_seconds <= 0:
            passed = "the job's deadline passed before its task arrived"
            self.holdings.fail(task, stage_pb2.FAILURE_KIND_DEADLINE, passed)
        elif task.stage is Stage.ENCODE and not task.copies:
            if command.parameters.inputs:
                self._begin(task, self._download(task))
            else:
                self._ready(task)
        elif reason := mismatch(self._generation, command.input):
            self.holdings.fail(task, stage_pb2.FAILURE_KIND_INCOMPATIBLE, reason)
        elif command.input.incarnation == self._pool.incarnation and not task.copies:
            self._use_own(task)
        else:
            self._begin(task, self._pull(task))

    def cancel(self, task_id: str, *, only_if_waiting: bool) -> None:
        task = self.holdings.tasks.get(task_id)
        if task is None:
            return
        if not only_if_waiting:
            self.holdings.stop(task, stage_pb2.FAILURE_KIND_CANCELLED, "cancelled")
        elif not task.started:
            self.holdings.stop(task, stage_pb2.FAILURE_KIND_HANDED_BACK, "given back before it was started")

    def park(self, task_id: str) -> None:
        """End a denoising after its next step, with a checkpoint. Not one that was not begun, or can't be parked."""
        task = self.holdings.tasks.get(task_id)
        if task is not None and task.resumable and task.state in _DENOISES and task.park_at is None:
            task.park_at = time.monotonic()

    def _keeps(self, command: peer_pb2.Execute, stage: Stage) -> bool:
        """Whether it is to hold what an encoder made for denoisers, of which it is one."""
        return command.copy and stage is Stage.ENCODE and Stage.DENOISE in self._model.stages

    def _is_resumable(self, asked: stage_pb2.JobParameters) -> bool:
        return is_resumable(self._model.workflows, {file.name for file in asked.inputs})

    # ------------------------------------------------------------ leaving

    def drain(self) -> None:
        """Take nothing more, hand back what has not been started. What runs goes on; outputs stay."""
        self.draining = True
        for task in list(self.holdings.tasks.values()):
            if not task.started:
                self.holdings.stop(task, *_HANDED_BACK)

    def hand_back(self) -> None:
        """Also what runs, at its next boundary."""
        for task in list(self.holdings.tasks.values()):
            self.holdings.stop(task, *_HANDED_BACK)

    def forsake(self, stalled: Collection[str], why: str) -> None:
        """Take nothing more, and end at once all that still needs computing: it may never come to a boundary. The tasks
        `stalled` are what stands still, the others only stood behind. Uploads go on."""
        self.draining = True
        for task in list(self.holdings.tasks.values()):
            if task.id in stalled:
                self.holdings.give_up(task, stage_pb2.FAILURE_KIND_STALLED, why[:MAX_MESSAGE_CHARS])
            elif task.state is not State.PUBLISHING:
                self.holdings.give_up(task, *_HANDED_BACK)

    async def abandon(self, incarnation: str) -> None:
        """The router gave this worker's work to others: drop all of it, and be a new peer.

        Returns when nothing of the old incarnation computes or moves any more. A stage can't be interrupted between
        two boundaries, so that is the stage's to say.
        """
        for task in list(self.holdings.tasks.values()):
            self.holdings.stop(task, stage_pb2.FAILURE_KIND_CANCELLED, "fenced")
        if self._works:
            await asyncio.wait(self._works, timeout=CANCEL_SECONDS)
        while not await self.holdings.empty(outputs=False, timeout=CANCEL_SECONDS):
            log.warning("waiting_for_compute_to_stop", tasks=sorted(self.holdings.tasks))
        self.holdings.forget()
        self._pool.reincarnate(incarnation)
        self.inputs.forget_peers()

    # ------------------------------------------------------------ inputs

    def _begin(self, task: Task, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the compute thread. What it raises is the task's failure."""
        task.work = self._loop.create_task(work)
        self._works.add(task.work)
        task.work.add_done_callback(partial(self._finished, task))

    def _finished(self, task: Task, work: asyncio.Task[None]) -> None:
        self._works.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            self.holdings.fail_with(task, error)

    def _use_own(self, task: Task) -> None:
        wanted = task.execute.input
        source = self.holdings.outputs.read(wanted)
        if source is None:
            place = f"slot {wanted.slot} generation {wanted.slot_generation}"
            error = StaleDescriptor(f"{place} of this worker's own pool does not hold this output")
            self.holdings.fail_with(task, error)
            return
        task.source, task.slot = source, source.slot
        self._ready(task)

    async def _pull(self, task: Task) -> None:
        slot = await self.inputs.pull(task, self._metrics.of(task.stage))
        if task.state is State.ENDED:
            self._room.release(slot)
            return
        if task.copies:
            # Whoever pulls it checks the digest anew, which is that of the peer that made it.
            wanted = from_wire(task.execute.input)
            copy = self._pool.publish(slot, wanted.payload_bytes, wanted.digest)
            self._keep(task, reports.copied(task), copy, slot)
            return
        task.slot = slot
        self._ready(task)

    async def _download(self, task: Task) -> None:
        task.files = await self.inputs.download(task)
        self._ready(task)

    # ------------------------------------------------------------ computing

    def _ready(self, task: Task) -> None:
        task.state = State.WAITING
        task.ready_at = time.monotonic()
        (self._denoisings_waiting if task.stage is Stage.DENOISE else self._waiting).add(task)
        self._start_next()
        # A task that starts at once says so instead: every message costs as much as all else that is done for a task.
        if task.state is State.WAITING and task.stage is not Stage.ENCODE:
            self._send(reports.input_received(task))

    def _start_next(self) -> None:
        while self._denoising_has_room() and (task := self._denoisings_waiting.take()):
            self._denoising.add(task)
            self._denoise(task)
        if self._piece_has_room():
            if not self._denoising:
                self._start_piece()
            elif not self._requested:
                self._requested = True
                self._compute.request(self._give_piece)

    def _denoising_has_room(self) -> bool:
        task, piece = self._denoisings_waiting.first, self._waiting.first
        if task is None or len(self._denoising) >= self._batching.together or self._computes_alone():
            return False
        if piece is not None and piece.alone and self._piece is None:
            # Its turn comes when what denoises has ended.
            return False
        return not (task.alone and (self._denoising or self._piece))

    def _piece_has_room(self) -> bool:
        task = self._waiting.first
        if task is None or self._piece is not None or self._computes_alone():
            return False
        return not (task.alone and self._denoising)

    def _computes_alone(self) -> bool:
        return any(task.alone for task in self._denoising) or (self._piece is not None and self._piece.alone)

    def _give_piece(self) -> bool:
        self._requested = False
        return self._piece_has_room() and self._start_piece()

    def _start_piece(self) -> bool:
        task = self._piece = self._waiting.take()
        if task is None:
            return False
        work = partial(run_stage, task, self._model, self._pool, None, self._begun(task), self._pixels)
        doing = Doing(task.stage.value, task.shape, (task.id,))
        self._compute.submit(doing, work, partial(self._computed, task))
        return True

    def _denoise(self, task: Task) -> None:
        metrics = self._begun(task)
        company = self._batching.company(exact=task.execute.parameters.exact)
        if task.alone and company is Company.ANY:
            company = Company.OWN

        def work(ask: Ask) -> Result:
            on_step, keep = partial(self._steps.on_step, task), partial(self.snapshots.at_step, task)
            driver = TaskDriver(ask, on_step, company, lambda: task.park_at is not None, keep)
            result = run_stage(task, self._model, self._pool, driver, metrics, self._pixels)
            task.timings.forwards = next((shape for shape, _ in driver.tokens.most_common(1)), "")
            return result

        def ended(member: Member[Result]) -> None:
            self._compute.post(self._computed, task, member.strand.result, member.strand.error)

        member = Member(Strand(work), task.order, company, ended, task=task.id, shape=task.shape)
        task.interrupt = partial(self._compute.end, member, StepCancelled())
        self._compute.denoise(member)

    def _begun(self, task: Task) -> StageMetrics:
        now = time.monotonic()
        task.timings.wait_seconds += now - task.ready_at
        task.step_at = now
        task.state = State.RUNNING
        # Said before anything is computed: should the model end this process, the router must know which job did.
        self._send(reports.progress(task))
        return self._metrics.stages[task.stage]

    def _computed(self, task: Task, result: Result | None, error: BaseException | None) -> None:
        if task is self._piece:
            self._piece = None
        else:
            self._denoising.discard(task)
            task.interrupt = None
        self.holdings.drop_input(task)
        if task.stop is not None:
            if isinstance(result, Published):
                self._room.release(result.slot)
            self.holdings.fail(task, *task.stop)
        elif error is not None:
            self.holdings.fail_with(task, error)
        else:
            self._steps.flush(task)
            self._publish(task, result)
        self._start_next()

    # ------------------------------------------------------------ outputs

    def _publish(self, task: Task, result: Result | None) -> None:
        match result:
            case Published(slot, descriptor, parked):
                self._keep(task, reports.parked(task) if parked else reports.done(task), descriptor, slot)
            case NoRoom():
                task.state = State.PUBLISHING
                self._begin(task, self._publish_later(task, result))
            case TooMuch(checkpoint, why):
                log.warning("checkpoint_not_carried", task_id=task.id, job_id=task.job_id, error=why)
                task.resumable = False
                self._go_on(task, checkpoint)
            case Files(media):
                task.state = State.PUBLISHING
                self._begin(task, self._upload(task, media))

    def _keep(self, task: Task, report: peer_pb2.StageDone, descriptor: Descriptor, slot: Slot) -> None:
        report.output.CopyFrom(to_wire(descriptor, self._generation))
        self.holdings.complete(task, report, slot)

    def _go_on(self, task: Task, checkpoint: Values) -> None:
        """Denoise from a checkpoint that could not be published, as if nobody had asked for it."""
        task.checkpoint, task.park_at = checkpoint, None
        task.state = State.PAUSED
        task.ready_at = time.monotonic()
        self._denoisings_waiting.add(task)
        self._start_next()

    async def _publish_later(self, task: Task, made: NoRoom) -> None:
        """Computed, but the pool is full: wait for room aside, so that tasks that make room can be computed."""
        parked = made.checkpoint is not None
        try:
            slot = await self._room.lease(task, made.plan.nbytes)
        except PoolFull:
            if made.checkpoint is None:
                raise
            self._go_on(task, made.checkpoint)
            return
        doing = Doing("publish", f"up to {1 << made.plan.nbytes.bit_length()} bytes", (task.id,))
        work = partial(publish, made.plan, slot, self._pool, parked=parked)
        self._compute.submit(doing, work, partial(self._written, task))

    def _written(self, task: Task, result: Published | None, error: BaseException | None) -> None:
        if task.state is State.ENDED:
            if result is not None:
                self._room.release(result.slot)
        elif error is not None:
            self.holdings.fail_with(task, error)
        else:
            self._publish(task, result)

    async def _upload(self, task: Task, media: list[Media]) -> None:
        begun = time.monotonic()
        report = reports.done(task)
        for index, one in enumerate(media):
            artifact = await self._artifacts.upload(
                job_id=task.job_id,
                task_id=task.id,
                ticket=task.execute.ticket,
                index=index,
                media=one,
                deadline=task.deadline,
            )
            report.artifacts.append(artifact)
        report.timings.publish_seconds = time.monotonic() - begun
        self.holdings.complete(task, report, None)
