"""Worker streams: `PeerService.Attach`.

One session a stream. A worker that attaches again with the same incarnation, and the secret of its process, replaces
its older session, whose late reports are no longer heard. Reports that only a newer worker makes are passed over.
Commands wait in a bounded queue; a worker that does not read them is cut off and has to come back and say what it
holds.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc
import structlog

from diffusion_router import core
from diffusion_router.peers import messages
from diffusion_router.peers.claims import MalformedReport, make_plausible
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.probing import Prober, pair
from diffusion_router.peers.readers import KNOWS_PEERS_GONE, Readers
from diffusion_router.peers.tickets import Tickets
from diffusionpipeline.v1 import peer_pb2, peer_pb2_grpc, stage_pb2
from diffusionpipeline.words import PROTOCOL

_MAX_COMMANDS: Final = 4096
_REGISTER_TIMEOUT: Final = 10.0
_WRITE_TIMEOUT: Final = 30.0

log = structlog.get_logger()


class Parameters(Protocol):
    """Where Execute commands get what a job makes."""

    def parameters(self, job_id: str) -> stage_pb2.JobParameters | None: ...


class Told(Protocol):
    """Who counts what workers say."""

    def passed_over(self, reason: str, count: int) -> None:
        """Reports, or numbers in them."""

    def adapters_loaded(self, count: int, seconds: float) -> None:
        """How many were, and how long that took."""


@dataclass(slots=True, eq=False)
class Session:
    register: peer_pb2.Register
    commands: asyncio.Queue[peer_pb2.RouterCommand | None] = field(
        default_factory=lambda: asyncio.Queue(maxsize=_MAX_COMMANDS)
    )
    heartbeat: peer_pb2.Heartbeat = field(default_factory=peer_pb2.Heartbeat)
    loads: Mapping[str, int] = field(default_factory=dict)
    """How often it loaded each adapter, by its last word of them."""
    last_report: float = field(default_factory=time.monotonic)
    prober: Prober | None = None
    """Once it is welcome."""
    closed: bool = False

    def send(self, command: peer_pb2.RouterCommand) -> None:
        if self.closed:
            return
        try:
            self.commands.put_nowait(command)
        except asyncio.QueueFull:
            log.warning("worker_reads_no_commands", incarnation=self.register.incarnation)
            self.close()

    def close(self) -> None:
        """What is already queued is still sent, if there is room for the mark that ends it."""
        if not self.closed:
            self.closed = True
            if self.commands.full():
                self.commands.get_nowait()
            self.commands.put_nowait(None)


class Sessions(peer_pb2_grpc.PeerServiceServicer):
    def __init__(
        self,
        dispatcher: Dispatcher,
        parameters: Parameters,
        tickets: Tickets,
        told: Told,
    ) -> None:
        self._dispatcher = dispatcher
        self._parameters = parameters
        self._tickets = tickets
        self._told = told
        self._sessions: dict[str, Session] = {}
        self._readers = Readers()

    def session(self, incarnation: str) -> Session | None:
        """The latest session of a peer, open or broken."""
        return self._sessions.get(incarnation)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def perform(self, action: messages.Action) -> None:
        match action:
            case core.Execute():
                self._execute(action)
            case core.CancelTask() | core.ParkTask() | core.AskCheckpoint() | core.ReleaseSlot():
                self._send(action.incarnation, messages.command(action))
            case core.Welcome():
                policy = self._dispatcher.core.policy
                epoch = self._dispatcher.core.epoch
                welcome = peer_pb2.Registered(lease_seconds=policy.lease, epoch=epoch, protocol=PROTOCOL)
                self._send(action.incarnation, peer_pb2.RouterCommand(registered=welcome))
                self._meet(action.incarnation)
            case core.Refuse():
                self._dismiss(action)
            case core.PeerLost():
                log.info("peer_lost", incarnation=action.incarnation, reason=action.reason)
                text = f"this incarnation was given up: {action.reason}"
                self._dismiss(core.Refuse(action.incarnation, core.RefusalReason.FENCED, text))
                self._tell_readers(action.incarnation)
                self._pair()

    def _execute(self, action: core.Execute[messages.Report]) -> None:
        parameters = self._parameters.parameters(action.job_id)
        if parameters is None and action.copy:
            # Of a job that has ended: what it was made for is of no account.
            parameters = stage_pb2.JobParameters()
        if parameters is not None:
            left = max(0.0, action.deadline - self._dispatcher.core.now)
            ticket = self._tickets.of(action.task_id)
            if action.input is not None:
                self._readers.add(action.incarnation, action.input.output.incarnation)
            self._send(action.incarnation, messages.execute(action, parameters, left, ticket))

    def _meet(self, incarnation: str) -> None:
        session = self._sessions.get(incarnation)
        if session is not None:
            session.prober = Prober(session.register)
            self._pair()

    def _pair(self) -> None:
        here = {
            incarnation: session.prober
            for incarnation, session in self._sessions.items()
            if session.prober is not None and not session.closed
        }
        for incarnation, probe in pair(here):
            if probe.HasField("payload"):
                self._readers.add(incarnation, probe.payload.incarnation)
            self._send(incarnation, peer_pb2.RouterCommand(probe=probe))

    def _tell_readers(self, gone: str) -> None:
        command = peer_pb2.RouterCommand(peer_gone=peer_pb2.PeerGone(incarnation=gone))
        for incarnation in self._readers.lose(gone):
            session = self._sessions.get(incarnation)
            if session is not None and session.register.protocol >= KNOWS_PEERS_GONE:
                session.send(command)

    def _send(self, incarnation: str, command: peer_pb2.RouterCommand) -> None:
        session = self._sessions.get(incarnation)
        if session is not None:
            session.send(command)

    def _dismiss(self, refusal: core.Refuse) -> None:
        session = self._sessions.pop(refusal.incarnation, None)
        if session is not None:
            session.send(messages.command(refusal))
            session.close()

    # A coroutine, not the generator that the generated type has: gRPC takes both, and a coroutine writes by itself.
    async def Attach(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[peer_pb2.PeerReport],
        context: grpc.aio.ServicerContext[peer_pb2.PeerReport, peer_pb2.RouterCommand],
    ) -> None:
        reports = aiter(request_iterator)
        try:
            first = await asyncio.wait_for(anext(reports), _REGISTER_TIMEOUT)
            self._make_plausible(first)
            registered = messages.registration(first.register)
        except (TimeoutError, StopAsyncIteration, MalformedReport) as error:
            detail = str(error) or f"no Register within {_REGISTER_TIMEOUT:.0f} s"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the first report must be a Register: {detail}")
        session = Session(first.register, loads=_loads(first.register.adapters))
        incarnation = registered.incarnation
        older = self._sessions.get(incarnation)
        if older is not None and not hmac.compare_digest(older.register.secret, first.register.secret):
            text = "another process is this incarnation: come back as a new one"
            refusal = core.Refuse(incarnation, core.RefusalReason.FENCED, text)
            await asyncio.wait_for(context.write(messages.command(refusal)), _WRITE_TIMEOUT)
            return
        self._sessions[incarnation] = session
        if older is not None:
            older.close()
        of_peer = log.bind(pod=registered.pod_name, incarnation=incarnation)
        of_peer.info("peer_attached", roles=[stage.name.lower() for stage in sorted(registered.stages)])
        self._dispatcher.dispatch(registered)
        writer = asyncio.create_task(self._write(session, context))
        reader = asyncio.create_task(self._read(session, reports))
        try:
            # The writer ends when the session is closed or a write fails, the reader when the worker hangs up.
            done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if isinstance(task.exception(), MalformedReport):
                    of_peer.warning("malformed_report", error=str(task.exception()))
        finally:
            writer.cancel()
            reader.cancel()
            session.closed = True
            if self._sessions.get(incarnation) is session:
                of_peer.info("peer_stream_ended")
                self._dispatcher.dispatch(core.PeerDisconnected(incarnation))
                self._pair()

    async def _read(self, session: Session, reports: AsyncIterator[peer_pb2.PeerReport]) -> None:
        incarnation = session.register.incarnation
        async for report in reports:
            if self._sessions.get(incarnation) is not session:
                return
            session.last_report = time.monotonic()
            self._make_plausible(report)
            event = messages.event(incarnation, report, session.heartbeat)
            if event is None:
                self._told.passed_over("unknown", 1)
                continue
            if report.HasField("heartbeat"):
                session.heartbeat = report.heartbeat
                if report.heartbeat.HasField("adapters"):
                    self._count_loads(session, report.heartbeat.adapters)
            elif report.HasField("probed") and session.prober is not None:
                session.prober.hear(report.probed)
            self._dispatcher.dispatch(event)

    def _count_loads(self, session: Session, adapters: peer_pb2.Adapters) -> None:
        # Of several loads between two reports the last one's time is known.
        for adapter in adapters.offered:
            count = max(0, adapter.loads - session.loads.get(adapter.name, 0))
            self._told.adapters_loaded(count, count * adapter.load_seconds)
        session.loads = _loads(adapters)

    def _make_plausible(self, report: peer_pb2.PeerReport) -> None:
        if wrong := make_plausible(report):
            self._told.passed_over("impossible", wrong)

    async def _write(
        self, session: Session, context: grpc.aio.ServicerContext[peer_pb2.PeerReport, peer_pb2.RouterCommand]
    ) -> None:
        while (command := await session.commands.get()) is not None:
            await asyncio.wait_for(context.write(command), _WRITE_TIMEOUT)


def _loads(adapters: peer_pb2.Adapters) -> dict[str, int]:
    return {adapter.name: adapter.loads for adapter in adapters.offered}
