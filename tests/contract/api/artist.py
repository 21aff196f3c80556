"""A worker of all three roles that does at once what it is told, with a real picture as its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from io import BytesIO

from PIL import Image

from contract.router.scripted_worker import DEADLINE, ScriptedWorker
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from testbed.waiting import eventually

STEPS = 4
VIDEO = b"\x00\x00\x00\x18ftypmp42 not really a film"


def picture(picture_format: str = "PNG", size: tuple[int, int] = (64, 64), shade: int = 0) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, (shade % 256, 40, 40)).save(out, picture_format)
    return out.getvalue()


class Artist(ScriptedWorker):
    """While `allowed` is clear, it stops in the middle of denoising until it is set, or the task is cancelled."""

    def __init__(
        self,
        target: str,
        output: str = "image",
        model: str = "scripted",
        adapters: Sequence[str] = (),
        schedulers: Sequence[str] = (),
        control_nets: Sequence[str] = (),
        ip_adapters: Sequence[str] = (),
    ) -> None:
        """adapters: those that it offers; none is loaded before it says so. The others: likewise."""
        super().__init__(target, "encoder", "denoiser", "decoder")
        self._adapters = adapters
        self._schedulers = schedulers
        self._control_nets = control_nets
        self._ip_adapters = ip_adapters
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.denoising = asyncio.Event()
        self.cancelled: list[str] = []
        self.failure: tuple[stage_pb2.FailureKind.ValueType, str] | None = None
        self._output = output
        self._model = model
        self._writing = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def report(self, **report: object) -> None:
        if isinstance(register := report.get("register"), peer_pb2.Register):
            register.model.makes = self._output
            register.model.id = self._model
            register.adapters.CopyFrom(self.offering())
            register.schedulers.extend(self._schedulers)
        # A stream takes one write at a time.
        async with self._writing:
            await super().report(**report)

    def offering(self, seconds: float = 0.0, /, **loads: int) -> peer_pb2.Adapters:
        """loads: how often those that are loaded were."""
        return peer_pb2.Adapters(
            control_nets=self._control_nets,
            ip_adapters=self._ip_adapters,
            offered=[
                peer_pb2.OfferedAdapter(
                    name=name, scale=1, loaded=name in loads, load_seconds=seconds, loads=loads.get(name, 0)
                )
                for name in self._adapters
            ],
        )

    async def cut(self) -> None:
        for running in self._tasks.values():
            running.cancel()
        await super().cut()

    def result(self, task: peer_pb2.Execute) -> peer_pb2.StageDone:
        done = super().result(task)
        for artifact in done.artifacts:
            name, media_type, data = self._file(task)
            artifact.key, artifact.media_type, artifact.size = f"jobs/{task.job_id}/{name}", media_type, len(data)
            artifact.num_frames = 8 if self._output == "video" else 1
        return done

    async def _work(self) -> None:
        while (command := await self._commands.get()) is not None:
            match command.WhichOneof("command"):
                case "execute":
                    task = self._take(command.execute)
                    self._tasks[task.task_id] = asyncio.create_task(self._run(task))
                case "cancel":
                    await self._cancel(command.cancel)
                case "release_slot":
                    self._release(command.release_slot.task_id)

    async def _run(self, task: peer_pb2.Execute) -> None:
        await self.start(task, STEPS)
        if task.stage == stage_pb2.STAGE_DENOISE:
            await self.report(progress=peer_pb2.Progress(task_id=task.task_id, step=STEPS // 2, steps=STEPS))
            self.denoising.set()
            await self.allowed.wait()
            if self.failure is not None:
                await self.fail(task, *self.failure)
                return
        if task.stage == stage_pb2.STAGE_DECODE:
            name, _, data = self._file(task)
            await self.upload(task, data, name)
        await self.finish(task)

    async def _cancel(self, cancel: peer_pb2.Cancel) -> None:
        running = self._tasks.get(cancel.task_id)
        task = self.tasks.get(cancel.task_id)
        if cancel.only_if_waiting or running is None or task is None:
            return
        running.cancel()
        self.cancelled.append(task.job_id)
        await self.fail(task, stage_pb2.FAILURE_KIND_CANCELLED)

    def _file(self, task: peer_pb2.Execute) -> tuple[str, str, bytes]:
        if self._output == "video":
            return "0.mp4", "video/mp4", VIDEO
        wanted = task.parameters.output_format
        return f"0.{wanted}", f"image/{wanted}", picture(wanted.upper(), shade=task.parameters.seed)


async def until(condition: Callable[[], bool]) -> None:
    await eventually(condition, DEADLINE, "it came true")
