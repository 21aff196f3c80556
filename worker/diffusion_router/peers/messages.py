"""Protobuf on the wire <-> the core's events and actions.

What the core carries without looking inside is the report of a stage's end, as the worker sent it: the shells find the
descriptor, the artifacts and the timings in it.
"""

from __future__ import annotations

import math
import re
from typing import Final, TypeAlias

from diffusion_router import core
from diffusion_router.core.offers import of_control_net, of_ip_adapter
from diffusion_router.peers.claims import MalformedReport, check_result
from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2
from diffusionpipeline.words import ADAPTER_NAME, CONTROL_NAME, IP_ADAPTER_NAME

# The protocols with which Execute.copy and Checkpoint came.
_COPIES: Final = 3
# With which a denoiser is told to keep what encoders made.
_KEEPS_CONDITIONING: Final = 4
_CHECKPOINTS: Final = 4
# Workers give out their pools by pages.
_PAGE: Final = 4096

Report: TypeAlias = peer_pb2.StageDone
Core: TypeAlias = core.Core[Report]
Event: TypeAlias = core.Event[Report]
Action: TypeAlias = core.Action[Report]
Peer: TypeAlias = core.Peer[Report]
Task: TypeAlias = core.Task[Report]


def registration(message: peer_pb2.Register) -> core.PeerRegistered[Report]:
    """What the worker says, as it says it: whether it will do is the core's to judge. Raises MalformedReport."""
    if not message.incarnation:
        raise MalformedReport("Register: incarnation must be given")
    return core.PeerRegistered(
        incarnation=message.incarnation,
        stages=frozenset(_stage(role) for role in message.roles),
        pod_name=message.pod_name,
        generation=message.generation,
        mode=message.pool.mode,
        ip=_version_of_ip(message.pool),
        pulls=message.pool.pulls,
        model=message.model.digest,
        capacity=message.capacity,
        slots=message.pool.slots,
        pool_bytes=message.pool.size,
        cache_share=message.cache_share,
        draining=message.draining,
        process=_process(message),
        adapters=_adapters(message.adapters),
        schedulers=frozenset(message.schedulers),
        copies=message.protocol >= _COPIES,
        keeps_conditioning=message.protocol >= _KEEPS_CONDITIONING and stage_pb2.ROLE_DENOISER in message.roles,
        checkpoints=message.protocol >= _CHECKPOINTS,
        tasks=tuple(
            core.HeldTask(task.task_id, task.job_id, _stage(task.stage), task.started, task.input_task_id, task.copy)
            for task in message.tasks
        ),
        outputs=tuple(_result(done) for done in message.outputs),
    )


def _version_of_ip(pool: peer_pb2.Pool) -> str:
    """Mooncake speaks the one that its pool's address is of, and no other; our own back ends speak both."""
    if not pool.mode.startswith("mooncake-"):
        return ""
    return "IPv6" if pool.url.startswith(f"{pool.mode}://[") else "IPv4"


def _adapters(told: peer_pb2.Adapters) -> core.Adapters:
    # A file may have a name that no request can say.
    named = [adapter for adapter in told.offered if re.fullmatch(ADAPTER_NAME, adapter.name, re.ASCII)]
    control_nets = (of_control_net(name) for name in told.control_nets if re.fullmatch(CONTROL_NAME, name, re.ASCII))
    ip_adapters = (of_ip_adapter(name) for name in told.ip_adapters if re.fullmatch(IP_ADAPTER_NAME, name, re.ASCII))
    always = frozenset([*control_nets, *ip_adapters])
    return core.Adapters(
        offered=always.union(adapter.name for adapter in named),
        loaded=always.union(adapter.name for adapter in named if adapter.loaded),
    )


def _process(message: peer_pb2.Register) -> core.Process | None:
    process = message.process
    if not process.pod_uid or not math.isfinite(process.started_at):
        return None
    return core.Process(process.pod_uid, process.started_at)


def event(incarnation: str, report: peer_pb2.PeerReport, before: peer_pb2.Heartbeat) -> Event | None:
    """What any report but the first says; None: what a newer worker says. Raises MalformedReport.

    before: the last heartbeat, of which what is the same is not said again.
    """
    match report.WhichOneof("report"):
        case "register":
            return registration(report.register)
        case "heartbeat":
            heartbeat = report.heartbeat
            adapters = _adapters(heartbeat.adapters) if heartbeat.HasField("adapters") else None
            return core.PeerHeartbeat(incarnation, heartbeat.draining, adapters, _forwards(heartbeat, before))
        case "input_received":
            return core.InputReceived(incarnation, report.input_received.task_id)
        case "progress":
            progress = report.progress
            return core.Progressed(incarnation, progress.task_id, progress.step, progress.steps, progress.resumable)
        case "stage_done":
            return core.StageDone(incarnation, _result(report.stage_done))
        case "stage_failed":
            failed = report.stage_failed
            return core.StageFailed(incarnation, failed.task_id, _kind(failed.kind), failed.message)
        case "drained":
            return core.PeerDrained(incarnation)
        case "probed":
            return core.PeerProbed(incarnation)
        case _:
            return None


def _forwards(heartbeat: peer_pb2.Heartbeat, before: peer_pb2.Heartbeat) -> tuple[core.ForwardTime, ...]:
    known = {(time.shape, time.requests): time.seconds for time in before.forwards}
    return tuple(
        core.ForwardTime(time.shape, time.requests, time.seconds)
        for time in heartbeat.forwards
        if known.get((time.shape, time.requests)) != time.seconds
    )


def command(
    action: core.CancelTask | core.ParkTask | core.AskCheckpoint | core.ReleaseSlot | core.Refuse,
) -> peer_pb2.RouterCommand:
    match action:
        case core.CancelTask():
            cancel = peer_pb2.Cancel(task_id=action.task_id, only_if_waiting=action.only_if_waiting)
            return peer_pb2.RouterCommand(cancel=cancel)
        case core.ParkTask():
            return peer_pb2.RouterCommand(park=peer_pb2.Park(task_id=action.task_id))
        case core.AskCheckpoint():
            checkpoint = peer_pb2.Checkpoint(
                task_id=action.task_id, checkpoint_id=action.checkpoint_id, within_seconds=action.within
            )
            return peer_pb2.RouterCommand(checkpoint=checkpoint)
        case core.ReleaseSlot():
            return peer_pb2.RouterCommand(release_slot=peer_pb2.ReleaseSlot(task_id=action.task_id))
        case core.Refuse():
            reason = peer_pb2.RefusalReason.ValueType(action.reason)
            return peer_pb2.RouterCommand(refused=peer_pb2.Refused(reason=reason, message=action.message))


def execute(
    action: core.Execute[Report], parameters: stage_pb2.JobParameters, deadline_seconds: float, ticket: bytes
) -> peer_pb2.RouterCommand:
    message = peer_pb2.Execute(
        task_id=action.task_id,
        job_id=action.job_id,
        stage=stage_pb2.Stage.ValueType(action.stage),
        attempt=action.attempt,
        parameters=parameters,
        deadline_seconds=deadline_seconds,
        alone=action.alone,
        ticket=ticket,
        order=action.order,
        copy=action.copy,
    )
    if action.input is not None:
        message.input.CopyFrom(action.input.output)
        message.input_task_id = action.input.task_id
        if action.input.HasField("parked"):
            message.parked.CopyFrom(action.input.parked)
    return peer_pb2.RouterCommand(execute=message)


def stage_report(record: core.StageRecord[Report]) -> job_pb2.StageReport:
    report = record.report
    return job_pb2.StageReport(
        stage=stage_pb2.Stage.ValueType(record.stage),
        pod_name=record.pod_name,
        attempt=record.attempt,
        queue_seconds=record.queue_seconds,
        timings=report.timings if report is not None else None,
        shared=record.shared,
        parked=report.parked if report is not None and report.HasField("parked") else None,
        lost_steps=record.lost_steps,
    )


def _result(done: Report) -> core.StageResult[Report]:
    check_result(done)
    parked = core.Parked(done.parked.step, done.parked.steps) if done.HasField("parked") else None
    return core.StageResult(
        done.task_id,
        done.job_id,
        _stage(done.stage),
        done,
        compute_seconds=done.timings.compute_seconds,
        parked=parked,
        nbytes=-(-done.output.length // _PAGE) * _PAGE,
        forwards=done.timings.forwards,
        steps=done.steps,
    )


def _stage(number: int) -> core.Stage:
    try:
        return core.Stage(number)
    except ValueError:
        raise MalformedReport(f"unknown role or stage {number}") from None


def _kind(number: int) -> core.FailureKind:
    try:
        return core.FailureKind(number)
    except ValueError:
        return core.FailureKind.UNSPECIFIED
