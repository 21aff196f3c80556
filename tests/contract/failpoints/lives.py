"""A router without sockets, of which several live one after another on the same stores, and a worker that stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from contract.failpoints.points import Points, Watched
from diffusion_router import core
from diffusion_router.clock import StoreClock
from diffusion_router.metrics import Metrics
from diffusion_router.peers import messages
from diffusion_router.peers.conditioning import Conditionings
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.service import JobService
from diffusion_router.store import ArtifactStore, JobStore
from diffusionpipeline.process.machine import boot_id, uptime
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from testbed.waiting import eventually

DEADLINE = 20.0
_LIVES = count(1)


def picture_of(job_id: str) -> bytes:
    return f"picture of {job_id}".encode()


class Life:
    """One life of the router."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, clock: StoreClock, points: Points) -> None:
        self.points = points
        self.jobs = jobs
        self.artifacts = artifacts
        machine: messages.Core = core.Core(
            core.Policy(lease=1e6, settle=0.05, grace=0.0, backoff=0.01), epoch=f"life{next(_LIVES)}", now=0.0
        )
        self.dispatcher = Dispatcher(machine)
        self.executed: list[str] = []
        self.service = JobService(
            self.dispatcher,
            Conditionings(self.dispatcher),
            jobs=Watched(jobs, points),  # type: ignore[arg-type]
            artifacts=Watched(artifacts, points),  # type: ignore[arg-type]
            clock=clock,
            metrics=Metrics(),
            max_queued=100,
            timeout_seconds=60.0,
        )
        self._before = asyncio.all_tasks()

    @classmethod
    async def begin(cls, folder: Path, points: Points) -> Life:
        jobs = await JobStore.open(f"sqlite:///{folder / 'jobs.db'}", pipeline="p")
        clock = await StoreClock.open(jobs, boot=boot_id(), wall=time.time(), up=uptime())
        return cls(jobs, ArtifactStore.open(str(folder / "files"), flushed=False), clock, points)

    async def start(self, worker: Worker) -> None:
        self.dispatcher.add_hands(worker)
        worker.attach(self)
        await self.service.start()

    async def end(self) -> None:
        """As a kill does: whatever it still does ends, and nothing more is written."""
        self.points.cut.set()
        self.dispatcher.close()
        left = asyncio.all_tasks() - self._before - RUNNING - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.jobs.close()

    async def answered(self, name: str, call: Any) -> Any:
        """What a client hears; nothing, if the router is cut before it is sent."""
        answer = await call
        await self.points.reach(f"answer of {name}")
        return answer


class Worker:
    """Of all three roles. It goes on while the router is away, and says what it holds when that is back.

    A prompt says what happens to its job: `fails`, `waits` (until it is cancelled), `kills` (the worker, once).
    """

    def __init__(self) -> None:
        self._life: Life | None = None
        self._incarnation = ""
        self._starts = count(1)
        self._tasks: dict[str, core.Execute[messages.Report]] = {}
        self._outputs: dict[str, messages.Report] = {}
        self._stopped: dict[str, asyncio.Event] = {}
        self._killed: set[str] = set()
        self._begin_process()

    def _begin_process(self) -> None:
        self._tasks, self._outputs, self._stopped = {}, {}, {}
        self._process = core.Process("uid", next(self._starts))
        self._incarnation = f"w{self._process.started}"

    def attach(self, life: Life) -> None:
        self._life = life
        life.dispatcher.dispatch(
            core.PeerRegistered(
                incarnation=self._incarnation,
                stages=frozenset(core.Stage),
                pod_name="worker-0",
                capacity=4,
                process=self._process,
                tasks=tuple(self._held()),
                outputs=tuple(self._result(report) for report in self._outputs.values()),
            )
        )

    def _held(self) -> Iterator[core.HeldTask]:
        for task in self._tasks.values():
            input_id = task.input.task_id if task.input is not None else ""
            yield core.HeldTask(task.task_id, task.job_id, task.stage, started=True, input_id=input_id)

    @staticmethod
    def _result(report: messages.Report) -> core.StageResult[messages.Report]:
        return core.StageResult(report.task_id, report.job_id, core.Stage(report.stage), report, 0.01)

    def perform(self, action: messages.Action) -> None:
        life = self._life
        assert life is not None
        match action:
            case core.Execute():
                life.executed.append(action.job_id)
                self._tasks[action.task_id] = action
                self._stopped[action.task_id] = asyncio.Event()
                # It is another process: the end of a life of the router does not end it.
                task = asyncio.get_running_loop().create_task(self._run(action))
                RUNNING.add(task)
                task.add_done_callback(RUNNING.discard)
            case core.CancelTask() if action.task_id in self._stopped:
                self._stopped[action.task_id].set()
            case core.ReleaseSlot():
                self._outputs.pop(action.task_id, None)

    async def _run(self, task: core.Execute[messages.Report]) -> None:
        parameters = await self._parameters(task.job_id)
        self._say(core.Progressed(self._incarnation, task.task_id, 0, 1))
        await asyncio.sleep(0)
        if task.stage is core.Stage.DENOISE and parameters is not None:
            if "fails" in parameters.prompt:
                self._fail(task, core.FailureKind.MODEL_ERROR)
                return
            if "kills" in parameters.prompt and task.job_id not in self._killed:
                self._killed.add(task.job_id)
                self._begin_process()
                if self._life is not None and not self._life.points.cut.is_set():
                    self.attach(self._life)
                return
            if "waits" in parameters.prompt:
                await self._stopped[task.task_id].wait()
                self._fail(task, core.FailureKind.CANCELLED)
                return
        report = peer_pb2.StageDone(
            task_id=task.task_id, job_id=task.job_id, stage=stage_pb2.Stage.ValueType(task.stage)
        )
        if task.stage is core.Stage.DECODE:
            report.artifacts.add(key=await self._upload(task.job_id), media_type="image/png")
        if self._tasks.pop(task.task_id, None) is not None:
            self._outputs[task.task_id] = report
            self._say(core.StageDone(self._incarnation, self._result(report)))

    async def _parameters(self, job_id: str) -> stage_pb2.JobParameters | None:
        return self._life.service.parameters(job_id) if self._life is not None else None

    async def _upload(self, job_id: str) -> str:
        """Through whichever router there is: one that is cut never answers, and the next one is asked."""
        key = f"jobs/{job_id}/0.png"
        while True:
            life = self._life
            assert life is not None
            putting = asyncio.ensure_future(life.service.artifacts.put(key, picture_of(job_id)))
            cut = asyncio.ensure_future(life.points.cut.wait())
            await asyncio.wait({putting, cut}, return_when=asyncio.FIRST_COMPLETED)
            done = putting.done() and not putting.cancelled()
            for future in (putting, cut):
                future.cancel()
            if done:
                return key
            await eventually(lambda: self._life is not life, DEADLINE, "there is another router")  # noqa: B023

    def _fail(self, task: core.Execute[messages.Report], kind: core.FailureKind) -> None:
        if self._tasks.pop(task.task_id, None) is not None:
            self._say(core.StageFailed(self._incarnation, task.task_id, kind, "as its prompt says"))

    def _say(self, event: messages.Event) -> None:
        if self._life is not None and not self._life.points.cut.is_set():
            self._life.dispatcher.dispatch(event)


RUNNING: set[asyncio.Task[None]] = set()


async def stop_workers() -> None:
    running = list(RUNNING)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def parameters(prompt: str) -> stage_pb2.JobParameters:
    return stage_pb2.JobParameters(prompt=prompt, output_format="png")
