"""A router that does what a test tells it: the other end of `PeerService.Attach`, and an artifact store in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import httpx

from diffusionpipeline.v1 import (
    job_pb2,
    job_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    stage_pb2,
)
from testbed.waiting import eventually

DEADLINE = 10.0
ENCODE, DENOISE, DECODE = stage_pb2.STAGE_ENCODE, stage_pb2.STAGE_DENOISE, stage_pb2.STAGE_DECODE


@dataclass(eq=False)
class Stream:
    """One attached worker: what it said, and a way to tell it something."""

    register: peer_pb2.Register
    _context: grpc.aio.ServicerContext[peer_pb2.PeerReport, peer_pb2.RouterCommand]
    reports: list[peer_pb2.PeerReport] = field(default_factory=list)
    metrics_url: str = ""
    ended: bool = False
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _asked: int = 0

    async def send(self, **command: object) -> None:
        await self._context.write(peer_pb2.RouterCommand(**command))  # type: ignore[arg-type]

    async def execute(
        self,
        stage: stage_pb2.Stage.ValueType,
        task_id: str,
        *,
        source: stage_pb2.Descriptor | None = None,
        deadline: float = 60.0,
        alone: bool = False,
        order: float = 0.0,
        **parameters: object,
    ) -> None:
        made = {"prompt": "a red seven", "seed": 7, "num_inference_steps": 4, **parameters}
        await self.send(
            execute=peer_pb2.Execute(
                task_id=task_id,
                job_id="job",
                stage=stage,
                attempt=1,
                parameters=stage_pb2.JobParameters(**made),  # type: ignore[arg-type]
                input=source,
                deadline_seconds=deadline,
                alone=alone,
                order=order,
            )
        )

    async def cancel(self, task_id: str, *, only_if_waiting: bool = False) -> None:
        await self.send(cancel=peer_pb2.Cancel(task_id=task_id, only_if_waiting=only_if_waiting))

    async def park(self, task_id: str) -> None:
        await self.send(park=peer_pb2.Park(task_id=task_id))

    async def checkpoint(self, task_id: str, checkpoint_id: str, *, within: float = 0.0) -> None:
        asked = peer_pb2.Checkpoint(task_id=task_id, checkpoint_id=checkpoint_id, within_seconds=within)
        await self.send(checkpoint=asked)

    async def release(self, task_id: str) -> None:
        await self.send(release_slot=peer_pb2.ReleaseSlot(task_id=task_id))

    async def heard(self) -> None:
        """Until the worker has taken up every command sent so far: it takes them in their order, and ends a task that
        comes after its deadline at once."""
        self._asked += 1
        await self.execute(ENCODE, f"asked {self._asked}", deadline=0)
        await self.failed(f"asked {self._asked}")

    async def take(self, report: peer_pb2.PeerReport) -> None:
        async with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self.ended = True
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                async with self._changed:
                    await self._changed.wait_for(condition)
        except TimeoutError:
            said = [report.WhichOneof("report") for report in self.reports]
            raise AssertionError(f"no {what} within {DEADLINE} s, but {said}") from None

    def said(self, kind: str, task_id: str = "") -> list[peer_pb2.PeerReport]:
        """All reports of a kind, of one task if one is named."""
        return [
            report
            for report in self.reports
            if report.WhichOneof("report") == kind and (not task_id or getattr(report, kind).task_id == task_id)
        ]

    async def done(self, task_id: str) -> peer_pb2.StageDone:
        await self.until(lambda: bool(self.said("stage_done", task_id) or self.said("stage_failed", task_id)), task_id)
        assert not self.said("stage_failed", task_id), self.said("stage_failed", task_id)
        return self.said("stage_done", task_id)[-1].stage_done

    async def encoded(self, task_id: str = "e", **parameters: object) -> stage_pb2.Descriptor:
        """The output of an encode task, to denoise from."""
        await self.execute(ENCODE, task_id, **parameters)
        return (await self.done(task_id)).output

    async def failed(self, task_id: str) -> str:
        """The failure's kind, in short."""
        return stage_pb2.FailureKind.Name((await self.failure(task_id)).kind).removeprefix("FAILURE_KIND_")

    async def failure(self, task_id: str) -> peer_pb2.StageFailed:
        await self.until(lambda: bool(self.said("stage_failed", task_id)), f"failure of {task_id}")
        return self.said("stage_failed", task_id)[-1].stage_failed

    async def step(self, task_id: str, step: int) -> None:
        """Until progress of at least `step` was reported; 0 means that compute has started."""
        await self.until(
            lambda: any(report.progress.step >= step for report in self.said("progress", task_id)),
            f"step {step} of {task_id}",
        )

    async def received(self, task_id: str) -> None:
        await self.until(lambda: bool(self.said("input_received", task_id)), f"input of {task_id}")

    async def slots_used(self, count: int) -> None:
        """Until the worker's own metrics say that this many slots are in use."""
        wanted = re.compile(rf"^diffusion_worker_slots_used{{.*}} {count}\.0$", re.MULTILINE)
        async with httpx.AsyncClient() as client:

            async def told() -> bool:
                return wanted.search((await client.get(self.metrics_url)).text) is not None

            await eventually(told, DEADLINE, f"{count} slots are in use")


class ScriptedRouter(
    peer_pb2_grpc.PeerServiceServicer, job_pb2_grpc.ArtifactServiceServicer, registry_pb2_grpc.RegistryServiceServicer
):
    """Welcomes every worker, unless `refusals` has something to say first."""

    def __init__(self, *, lease: float = 10.0) -> None:
        self.lease = lease
        self.refusals: list[peer_pb2.Refused] = []
        self.streams: list[Stream] = []
        self.loading: list[registry_pb2.Loading] = []
        self.files: dict[str, bytes] = {}
        self.uploads: list[job_pb2.UploadRequest.Header] = []
        self.store_failures: list[grpc.StatusCode] = []
        self.port = 0
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """On the port it had before, if it was started before."""
        self._server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5_000)]
        )
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, self._server)
        job_pb2_grpc.add_ArtifactServiceServicer_to_server(self, self._server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def attached(self, pod_name: str = "", *, after: Stream | None = None) -> Stream:
        """The latest stream of a worker, opened later than `after`."""

        def found() -> list[Stream]:
            first = self.streams.index(after) + 1 if after is not None else 0
            return [stream for stream in self.streams[first:] if stream.register.pod_name.startswith(pod_name)]

        try:
            async with asyncio.timeout(DEADLINE):
                async with self._changed:
                    await self._changed.wait_for(lambda: bool(found()))
        except TimeoutError:
            raise AssertionError(f"no worker {pod_name!r} attached within {DEADLINE} s") from None
        return found()[-1]

    async def Attach(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[peer_pb2.PeerReport],
        context: grpc.aio.ServicerContext[peer_pb2.PeerReport, peer_pb2.RouterCommand],
    ) -> None:
        reports = aiter(request_iterator)
        stream = Stream((await anext(reports)).register, context)
        if self.refusals:
            await stream.send(refused=self.refusals.pop(0))
            return
        await stream.send(registered=peer_pb2.Registered(lease_seconds=self.lease, epoch="one"))
        async with self._changed:
            self.streams.append(stream)
            self._changed.notify_all()
        reading = asyncio.create_task(self._read(stream, reports))
        hanging_up = asyncio.create_task(stream.hang_up.wait())
        try:
            await asyncio.wait({reading, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            hanging_up.cancel()
            await stream.end()

    async def TellLoading(  # type: ignore[override]  # noqa: N802
        self,
        request: registry_pb2.TellLoadingRequest,
        context: grpc.aio.ServicerContext[registry_pb2.TellLoadingRequest, registry_pb2.TellLoadingResponse],
    ) -> registry_pb2.TellLoadingResponse:
        self.loading.append(request.loading)
        return registry_pb2.TellLoadingResponse()

    async def _read(self, stream: Stream, reports: AsyncIterator[peer_pb2.PeerReport]) -> None:
        async for report in reports:
            await stream.take(report)

    async def Upload(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[job_pb2.UploadRequest],
        context: grpc.aio.ServicerContext[job_pb2.UploadRequest, job_pb2.UploadResponse],
    ) -> job_pb2.UploadResponse:
        if self.store_failures:
            await context.abort(self.store_failures.pop(0), "scripted")
        data = bytearray()
        header = job_pb2.UploadRequest.Header()
        async for part in request_iterator:
            if part.HasField("header"):
                header = part.header
            else:
                assert len(part.chunk) <= 1 << 20
                data += part.chunk
        assert len(data) == header.size
        key = f"{header.job_id}/{header.name}"
        self.uploads.append(header)
        self.files[key] = bytes(data)
        return job_pb2.UploadResponse(key=key)

    async def Download(  # type: ignore[override]  # noqa: N802
        self,
        request: job_pb2.DownloadRequest,
        context: grpc.aio.ServicerContext[job_pb2.DownloadRequest, job_pb2.DownloadResponse],
    ) -> None:
        if request.key not in self.files:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no file {request.key}")
        data = self.files[request.key]
        for start in range(0, len(data), 1 << 16):
            await context.write(job_pb2.DownloadResponse(chunk=data[start : start + (1 << 16)]))
