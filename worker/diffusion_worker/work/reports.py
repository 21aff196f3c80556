"""What a worker says of its tasks, as protobuf."""

from __future__ import annotations

from diffusion_worker.work.tasks import Task
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import number


def input_received(task: Task) -> peer_pb2.PeerReport:
    return peer_pb2.PeerReport(input_received=peer_pb2.InputReceived(task_id=task.id))


def progress(task: Task) -> peer_pb2.PeerReport:
    return peer_pb2.PeerReport(
        progress=peer_pb2.Progress(task_id=task.id, step=task.step, steps=task.steps, resumable=task.resumable)
    )


def failed(task_id: str, kind: int, message: str) -> peer_pb2.PeerReport:
    failure = peer_pb2.StageFailed(task_id=task_id, kind=kind, message=message)  # type: ignore[arg-type]  # open enum
    return peer_pb2.PeerReport(stage_failed=failure)


def done(task: Task) -> peer_pb2.StageDone:
    """Without what was made."""
    stage = number(stage_pb2.Stage, task.stage)
    return peer_pb2.StageDone(task_id=task.id, job_id=task.job_id, stage=stage, timings=task.timings, steps=task.steps)


def copied(task: Task) -> peer_pb2.StageDone:
    """The same, of a task that keeps what another worker made."""
    report = done(task)
    if task.execute.HasField("parked"):
        report.parked.CopyFrom(task.execute.parked)
    return report


def checkpoint(task: Task, checkpoint_id: str, parked: peer_pb2.Parked, seconds: float) -> peer_pb2.StageDone:
    """The same, of a checkpoint of a task that goes on. seconds: that it stood still for that."""
    timings = stage_pb2.StageTimings(publish_seconds=seconds)
    stage = number(stage_pb2.Stage, task.stage)
    return peer_pb2.StageDone(task_id=checkpoint_id, job_id=task.job_id, stage=stage, timings=timings, parked=parked)


def parked(task: Task) -> peer_pb2.StageDone:
    """The same, of a denoising that ended with a checkpoint."""
    report = done(task)
    assert task.park_at is not None, "nobody parks by itself"
    report.timings.park_seconds = task.step_at - task.park_at
    report.parked.step, report.parked.steps = task.step, task.steps
    return report
