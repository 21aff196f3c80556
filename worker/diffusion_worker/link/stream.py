"""The worker's stream to the router: opened by the worker, kept open, opened again for ever.

What the worker holds is state, not messages: while the stream is broken no report is kept, because the registration
that begins the next stream says all of it again. So the queue of reports stays short, and a router that was restarted
learns as much as one that was only out of reach.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
import structlog

from diffusion_worker.ends import Incompatible
from diffusion_worker.link.worker import Worker
from diffusionpipeline.v1 import peer_pb2, peer_pb2_grpc

MAX_REPORTS: Final = 1024
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 2.0
REGISTER_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0

if TYPE_CHECKING:
    _Stream: TypeAlias = grpc.aio.StreamStreamCall[peer_pb2.PeerReport, peer_pb2.RouterCommand]

log = structlog.get_logger()


class Fenced(Exception):
    """The router gave this incarnation up."""


class StreamLost(Exception):
    """The stream ended, or can't be trusted any more."""


class RouterStream:
    """Over `channel`; `on_registered` hears when the router begins and ceases to count on this worker."""

    def __init__(self, channel: grpc.aio.Channel, on_registered: Callable[[bool], None]) -> None:
        self._stub = peer_pb2_grpc.PeerServiceStub(channel)
        self._on_registered = on_registered
        self._reports: deque[peer_pb2.PeerReport] = deque()
        self._progress: dict[str, peer_pb2.Progress] = {}
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._open = False
        self._lost = asyncio.Event()
        self._why_lost = ""
        self._written_at = 0.0
        self._pause = FIRST_PAUSE
        self._closing = False
        self.registered = False

    def send(self, report: peer_pb2.PeerReport) -> None:
        """Queue a report. Progress that was not sent yet is brought up to date in its place."""
        if not self._open:
            return
        kind = report.WhichOneof("report")
        if kind == "progress":
            queued = self._progress.get(report.progress.task_id)
            if queued is not None:
                queued.CopyFrom(report.progress)
                return
        if len(self._reports) >= MAX_REPORTS:
            if kind != "progress":
                self._lose("more reports are waiting than the router takes")
            return
        if kind == "progress":
            self._progress[report.progress.task_id] = report.progress
        self._reports.append(report)
        self._wake.set()

    def beat(self, worker: Worker) -> None:
        """A heartbeat now, not only when it is due."""
        self.send(peer_pb2.PeerReport(heartbeat=worker.heartbeat()))

    async def run(self, worker: Worker) -> None:
        """Keep a stream to the router until `close`. Raises Incompatible."""
        while not self._closing:
            try:
                await self._attach(worker)
            except Fenced as error:
                if self._closing:
                    # A router that heard Drained knows this incarnation no more.
                    return
                log.warning("fenced", reason=str(error))
                await worker.abandon()
            except StreamLost as error:
                if not self._closing:
                    log.warning("router_lost", reason=str(error))
            if not self._closing:
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
                self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Say Drained, give the router a moment to take all reports and hang up, and let `run` end."""
        self._closing = True
        if self._open:
            self.send(peer_pb2.PeerReport(drained=peer_pb2.Drained()))
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._ended.wait()
        self._lost.set()

    async def _attach(self, worker: Worker) -> None:
        """One stream, from registration to its end. Always raises, but when this is closing."""
        self._open = True
        self._ended.clear()
        self._written_at = time.monotonic()
        self.send(peer_pb2.PeerReport(register=worker.registration()))
        for report in worker.unsettled():
            self.send(report)
        stream: _Stream = self._stub.Attach()  # type: ignore[call-arg]  # without an iterator, reports are written
        ends = [
            asyncio.create_task(self._write(stream, worker)),
            asyncio.create_task(self._read(stream, worker)),
            asyncio.create_task(self._lost.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.wait(ends)
            stream.cancel()
            self._end()
        # The reader first: it knows why the router hung up, the writer only that it did.
        for end in (ends[1], ends[0]):
            if not end.cancelled() and (error := end.exception()) is not None:
                raise error
        if not self._closing:
            raise StreamLost(self._why_lost)

    async def _write(self, stream: _Stream, worker: Worker) -> None:
        while True:
            while self._reports:
                report = self._reports.popleft()
                kind = report.WhichOneof("report")
                if kind == "progress":
                    del self._progress[report.progress.task_id]
                try:
                    await stream.write(report)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                    # The reader will say why. It is given a moment, because it may still have a refusal to read.
                    await asyncio.sleep(CLOSE_SECONDS)
                    raise StreamLost("the stream was closed") from error
                self._written_at = time.monotonic()
                if kind == "stage_failed":
                    worker.failure_sent(report.stage_failed.task_id)
                if kind == "drained":
                    await stream.done_writing()
            self._wake.clear()
            await self._wake.wait()

    async def _read(self, stream: _Stream, worker: Worker) -> None:
        beating: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(REGISTER_SECONDS):
                lease = await self._registered(stream)
            log.info("registered", lease_seconds=lease)
            self._pause = FIRST_PAUSE
            self._set_registered(True)
            beating = asyncio.create_task(self._beat(worker, lease))
            while (command := await _next(stream)) is not None:
                if command.WhichOneof("command") == "refused":
                    raise _refusal(command.refused)
                worker.obey(command)
        except TimeoutError:
            raise StreamLost(f"no answer to the registration within {REGISTER_SECONDS:.0f} s") from None
        except grpc.aio.AioRpcError as error:
            raise StreamLost(f"{error.code().name}: {error.details()}") from None
        finally:
            if beating is not None:
                beating.cancel()
        raise StreamLost("the router closed the stream")

    async def _registered(self, stream: _Stream) -> float:
        """The lease in seconds, from the first command."""
        command = await _next(stream)
        if command is None:
            raise StreamLost("the router closed the stream before it answered the registration")
        match command.WhichOneof("command"):
            case "registered":
                return command.registered.lease_seconds
            case "refused":
                raise _refusal(command.refused)
            case other:
                raise StreamLost(f"the router answered the registration with {other}")

    async def _beat(self, worker: Worker, lease: float) -> None:
        """Heartbeats. A worker that could say nothing for a whole lease (it was stopped, the router does not read)
        must take it that its work was given to others, and asks by registering again."""
        while True:
            await asyncio.sleep(lease / 3)
            silence = time.monotonic() - self._written_at
            if silence > lease:
                self._lose(f"nothing could be sent for {silence:.1f} s, the lease is {lease:.1f} s")
                return
            self.beat(worker)

    def _lose(self, reason: str) -> None:
        self._why_lost = reason
        self._lost.set()

    def _set_registered(self, registered: bool) -> None:
        self.registered = registered
        self._on_registered(registered)

    def _end(self) -> None:
        self._open = False
        self._reports.clear()
        self._progress.clear()
        self._wake.clear()
        self._ended.set()
        if not self._closing:
            self._lost.clear()
        if self.registered:
            self._set_registered(False)


async def _next(stream: _Stream) -> peer_pb2.RouterCommand | None:
    """None at the stream's end."""
    command = await stream.read()
    return command if isinstance(command, peer_pb2.RouterCommand) else None


def _refusal(refused: peer_pb2.Refused) -> Exception:
    if refused.reason == peer_pb2.REFUSAL_REASON_INCOMPATIBLE:
        return Incompatible(refused.message)
    if refused.reason == peer_pb2.REFUSAL_REASON_NAME_TAKEN:
        return StreamLost(refused.message)
    return Fenced(refused.message)
