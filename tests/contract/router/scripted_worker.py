"""A worker that does what a test tells it: the other end of `PeerService.Attach`, with no model and no transport."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from itertools import count

import grpc

from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, peer_pb2, peer_pb2_grpc, stage_pb2
from diffusionpipeline.words import PROTOCOL

ROLES = {"encoder": 1, "denoiser": 2, "decoder": 3}
DEADLINE = 10.0
# Each later than the one before.
_STARTS = count(1)


class ScriptedWorker:
    def __init__(
        self,
        target: str,
        *roles: str,
        pod_name: str = "",
        incarnation: str = "",
        mode: str = "memory",
        url: str = "",
        pulls: str = "",
        capacity: int = 1,
        slots: int = 64,
        process: peer_pb2.Process | None = None,
        protocol: int = PROTOCOL,
        generation: str = "",
        offers: bool = False,
        probed: Sequence[peer_pb2.Probed] = (),
    ) -> None:
        """offers: it has a probe. probed: what it says of those that it pulled before."""
        self.incarnation = incarnation or secrets.token_hex(8)
        self.pod_name = pod_name or f"pod-{self.incarnation[:4]}"
        self.held: dict[str, peer_pb2.StageDone] = {}
        self.tasks: dict[str, peer_pb2.Execute] = {}
        self.executed: list[peer_pb2.Execute] = []
        self.released: list[str] = []
        self.registered: peer_pb2.Registered | None = None
        self.refused: peer_pb2.Refused | None = None
        self.secret = secrets.token_bytes(16)
        self.process = process or peer_pb2.Process(pod_uid=f"uid of {self.pod_name}", started_at=next(_STARTS))
        self._protocol = protocol
        self.generation = generation
        self._offers = offers
        self._probed = probed
        self.target = target
        self._roles = [stage_pb2.Role.ValueType(ROLES[role]) for role in roles]
        self._mode, self._pulls, self._url = mode, pulls, url
        self._capacity = capacity
        self._slots = slots
        self._commands: asyncio.Queue[peer_pb2.RouterCommand | None] = asyncio.Queue()
        self._auto: asyncio.Task[None] | None = None

    async def attach(self) -> ScriptedWorker:
        """Opens the stream; returns once the router has welcomed or refused the worker."""
        self._channel = grpc.aio.insecure_channel(self.target)
        self._stream = peer_pb2_grpc.PeerServiceStub(self._channel).Attach()
        register = peer_pb2.Register(
            incarnation=self.incarnation,
            pod_name=self.pod_name,
            roles=self._roles,
            pool=peer_pb2.Pool(mode=self._mode, pulls=self._pulls, url=self._url, slots=self._slots, size=1 << 20),
            model=peer_pb2.ModelIdentity(id="scripted", digest="d1", makes="image"),
            capacity=self._capacity,
            tasks=[
                peer_pb2.HeldTask(task_id=task.task_id, job_id=task.job_id, stage=task.stage, started=True)
                for task in self.tasks.values()
            ],
            outputs=self.held.values(),
            process=self.process,
            generation=self.generation,
            protocol=self._protocol,
            secret=self.secret,
            probe=stage_pb2.Descriptor(incarnation=self.incarnation) if self._offers else None,
            probed=self._probed,
        )
        await self.report(register=register)
        self._reader = asyncio.create_task(self._read())
        command = await self.command()
        if command.HasField("registered"):
            self.registered = command.registered
        else:
            self.refused = command.refused
        return self

    async def report(self, **report: object) -> None:
        await asyncio.wait_for(self._stream.write(peer_pb2.PeerReport(**report)), DEADLINE)

    async def command(self) -> peer_pb2.RouterCommand:
        command = await asyncio.wait_for(self._commands.get(), DEADLINE)
        assert command is not None, "the router ended the stream"
        return command

    async def ended(self) -> None:
        while await asyncio.wait_for(self._commands.get(), DEADLINE) is not None:
            pass

    async def next_task(self) -> peer_pb2.Execute:
        """The next Execute; releases met on the way are carried out."""
        while True:
            command = await self.command()
            if command.HasField("execute"):
                return self._take(command.execute)
            if command.HasField("release_slot"):
                self._release(command.release_slot.task_id)

    async def next_cancel(self) -> peer_pb2.Cancel:
        while not (command := await self.command()).HasField("cancel"):
            if command.HasField("release_slot"):
                self._release(command.release_slot.task_id)
        return command.cancel

    async def next_release(self) -> str:
        while not (command := await self.command()).HasField("release_slot"):
            pass
        self._release(command.release_slot.task_id)
        return command.release_slot.task_id

    async def start(self, task: peer_pb2.Execute, steps: int = 4) -> None:
        if task.HasField("input"):
            await self.report(input_received=peer_pb2.InputReceived(task_id=task.task_id))
        await self.report(progress=peer_pb2.Progress(task_id=task.task_id, step=0, steps=steps))

    def result(self, task: peer_pb2.Execute) -> peer_pb2.StageDone:
        done = peer_pb2.StageDone(task_id=task.task_id, job_id=task.job_id, stage=task.stage)
        if task.stage == stage_pb2.STAGE_DECODE:
            done.artifacts.add(key=f"jobs/{task.job_id}/0.png", media_type="image/png", size=3, width=64, height=64)
        else:
            done.output.incarnation = self.incarnation
            done.output.url = task.task_id  # lets a test see whose output was handed on
        if task.stage == stage_pb2.STAGE_DENOISE:
            done.steps = 4
        done.timings.compute_seconds = 0.01
        return done

    async def finish(self, task: peer_pb2.Execute) -> None:
        done = self.result(task)
        self.tasks.pop(task.task_id, None)
        self.held[task.task_id] = done
        await self.report(stage_done=done)

    async def fail(self, task: peer_pb2.Execute, kind: stage_pb2.FailureKind.ValueType, message: str = "") -> None:
        self.tasks.pop(task.task_id, None)
        await self.report(stage_failed=peer_pb2.StageFailed(task_id=task.task_id, kind=kind, message=message))

    async def upload(self, task: peer_pb2.Execute, data: bytes, name: str = "0.png") -> str:
        stub = job_pb2_grpc.ArtifactServiceStub(self._channel)
        header = job_pb2.UploadRequest.Header(
            job_id=task.job_id,
            task_id=task.task_id,
            name=name,
            media_type="image/png",
            size=len(data),
            ticket=task.ticket,
        )
        parts = [job_pb2.UploadRequest(header=header), job_pb2.UploadRequest(chunk=data)]
        return (await stub.Upload(iter(parts), timeout=DEADLINE)).key

    def work(self) -> None:
        """From now on does every task at once."""
        self._auto = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            command = await self._commands.get()
            if command is None:
                return
            if command.HasField("execute"):
                task = self._take(command.execute)
                await self.start(task)
                await self.finish(task)
            elif command.HasField("release_slot"):
                self._release(command.release_slot.task_id)

    async def cut(self) -> None:
        """The network goes; the worker lives on with what it holds."""
        for task in (self._reader, self._auto):
            if task is not None:
                task.cancel()
        self._auto = None
        self._stream.cancel()
        await self._channel.close()
        self._commands = asyncio.Queue()

    def _take(self, task: peer_pb2.Execute) -> peer_pb2.Execute:
        self.tasks[task.task_id] = task
        self.executed.append(task)
        return task

    def _release(self, task_id: str) -> None:
        self.held.pop(task_id, None)
        self.released.append(task_id)

    async def _read(self) -> None:
        commands = self._commands
        try:
            async for command in self._stream:
                await commands.put(command)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        finally:
            commands.put_nowait(None)


async def attach_all(target: str, *roles: Sequence[str] | str) -> list[ScriptedWorker]:
    workers = [ScriptedWorker(target, *([role] if isinstance(role, str) else role)) for role in roles]
    for worker in workers:
        await worker.attach()
    return workers
