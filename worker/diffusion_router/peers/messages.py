"""Protobuf on the wire <-> the core's events and actions.

Descriptors, artifacts and timings stay protobuf messages: the core carries them without looking inside.
"""

from __future__ import annotations

from diffusion_router import core
from diffusion_router.core.state import StageRecord
from diffusionpipeline.v1 import generation_pb2, peer_pb2, stage_pb2


class MalformedReport(ValueError):
    """A worker said something that no version of the protocol has."""


def registration(message: peer_pb2.Register) -> core.PeerRegistered:
    if not message.incarnation or not message.roles:
        raise MalformedReport("Register: incarnation and roles must be given")
    return core.PeerRegistered(
        incarnation=message.incarnation,
        stages=frozenset(_stage(role) for role in message.roles),
        pod_name=message.pod_name,
        generation=message.generation,
        mode=message.pool.mode,
        model=message.model.digest,
        capacity=max(1, message.capacity),
        slots=max(3, message.pool.slots),
        draining=message.draining,
        tasks=tuple(
            core.HeldTask(task.task_id, task.job_id, _stage(task.stage), task.started) for task in message.tasks
        ),
        outputs=tuple(_result(done) for done in message.outputs),
    )


def event(incarnation: str, report: peer_pb2.PeerReport) -> core.Event:
    """What any report but the first says. Raises MalformedReport."""
    match report.WhichOneof("report"):
        case "register":
            return registration(report.register)
        case "heartbeat":
            return core.PeerHeartbeat(incarnation, report.heartbeat.draining)
        case "input_received":
            return core.InputReceived(incarnation, report.input_received.task_id)
        case "progress":
            progress = report.progress
            return core.Progressed(incarnation, progress.task_id, progress.step, progress.steps)
        case "stage_done":
            return core.StageDone(incarnation, _result(report.stage_done))
        case "stage_failed":
            failed = report.stage_failed
            return core.StageFailed(incarnation, failed.task_id, _kind(failed.kind), failed.message)
        case "drained":
            return core.PeerDrained(incarnation)
        case other:
            raise MalformedReport(f"PeerReport: unknown kind {other}")


def command(
    action: core.CancelTask | core.ReleaseSlot | core.Refuse,
) -> peer_pb2.RouterCommand:
    match action:
        case core.CancelTask():
            cancel = peer_pb2.Cancel(task_id=action.task_id, only_if_waiting=action.only_if_waiting)
            return peer_pb2.RouterCommand(cancel=cancel)
        case core.ReleaseSlot():
            return peer_pb2.RouterCommand(release_slot=peer_pb2.ReleaseSlot(task_id=action.task_id))
        case core.Refuse():
            reason = peer_pb2.RefusalReason.ValueType(action.reason)
            return peer_pb2.RouterCommand(refused=peer_pb2.Refused(reason=reason, message=action.message))


def execute(
    action: core.Execute, parameters: stage_pb2.GenerationParameters, deadline_seconds: float
) -> peer_pb2.RouterCommand:
    message = peer_pb2.Execute(
        task_id=action.task_id,
        job_id=action.job_id,
        stage=stage_pb2.Stage.ValueType(action.stage),
        attempt=action.attempt,
        parameters=parameters,
        deadline_seconds=deadline_seconds,
    )
    if isinstance(action.input, stage_pb2.Descriptor):
        message.input.CopyFrom(action.input)
    return peer_pb2.RouterCommand(execute=message)


def stage_report(record: StageRecord) -> generation_pb2.StageReport:
    return generation_pb2.StageReport(
        stage=stage_pb2.Stage.ValueType(record.stage),
        pod_name=record.pod_name,
        attempt=record.attempt,
        queue_seconds=record.queue_seconds,
        timings=record.timings if isinstance(record.timings, stage_pb2.StageTimings) else None,
    )


def _result(done: peer_pb2.StageDone) -> core.StageResult:
    stage = _stage(done.stage)
    return core.StageResult(
        task_id=done.task_id,
        job_id=done.job_id,
        stage=stage,
        output=done.output if done.HasField("output") else None,
        result=tuple(done.artifacts) if stage is core.Stage.DECODE else None,
        compute_seconds=done.timings.compute_seconds,
        timings=done.timings,
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
