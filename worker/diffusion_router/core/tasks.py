"""One try of a stage on one peer: how it starts, and what follows when it is done or has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from diffusion_router.core.events import Execute, FailureKind, JobChanged, JobStatus, ReleaseSlot, Stage, StageResult
from diffusion_router.core.state import Failure, Job, Peer, StageRecord, Task, slots_needed

if TYPE_CHECKING:
    from diffusion_router.core.machine import Core

# Tries kept for the stage table.
_MAX_RECORDS: Final = 32
_PERMANENT: Final = frozenset({FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE, FailureKind.DEADLINE})


def start(core: Core, job: Job, peer: Peer) -> None:
    stage, source = job.stage, job.input
    attempt = next_attempt(job, stage)
    task = Task(
        id=f"{job.id}.{stage.name.lower()}.{attempt}.{core.epoch}",
        job_id=job.id,
        stage=stage,
        incarnation=peer.incarnation,
        attempt=attempt,
        input=source,
        sent_at=core.now,
        slots=peer.slots_for(stage, source),
    )
    if source is not None:
        core.outputs.read(task, source)
    core.own(peer, task)
    job.task = task
    job.status = JobStatus.IN_PROGRESS
    if stage is not Stage.DECODE:
        job.step = 0
    record(job, StageRecord(stage, peer.pod_name, attempt, core.now - job.ready_since))
    descriptor = source.descriptor if source is not None else None
    core.emit(Execute(peer.incarnation, task.id, job.id, stage, attempt, descriptor, job.deadline))
    core.emit(JobChanged(job.id))


def next_attempt(job: Job, stage: Stage) -> int:
    job.attempts[stage] = job.attempts.get(stage, 0) + 1
    return job.attempts[stage]


def record(job: Job, entry: StageRecord) -> None:
    job.records.append(entry)
    del job.records[:-_MAX_RECORDS]


def finish(core: Core, peer: Peer, result: StageResult) -> None:
    task = core.disown(peer, result.task_id)
    if task is None:
        if result.task_id not in peer.outputs:
            core.emit(ReleaseSlot(peer.incarnation, result.task_id))
        return
    job = core.jobs.get(task.job_id)
    if job is None or job.task is not task:
        core.outputs.discard(core.outputs.keep(peer, result, None))
        core.outputs.stop_reading(task)
        return
    _trust_pool(core, peer)
    output = core.outputs.keep(peer, result, job)
    core.estimates.learn(task.stage, job.shape, result.compute_seconds)
    if job.records:
        job.records[-1].timings = result.timings
    job.task = None
    job.not_before = 0.0
    core.advance(job, output, result.result)
    core.outputs.stop_reading(task)


def fail(core: Core, peer: Peer, task_id: str, kind: FailureKind, message: str) -> None:
    task = core.disown(peer, task_id)
    if task is None:
        return
    core.outputs.stop_reading(task)
    job = core.jobs.get(task.job_id)
    mine = job is not None and job.task is task
    if job is not None and mine:
        job.task = None
    if kind is FailureKind.POOL_FULL:
        peer.room = max(slots_needed(peer.stages), min(peer.room, peer.slots_used))
        peer.full_at = core.now
        keep_reserve(core, peer)
    if job is None or not mine:
        return
    if kind in _PERMANENT:
        core.end(job, JobStatus.FAILED, kind, message)
    elif kind in (FailureKind.HANDED_BACK, FailureKind.CANCELLED):
        # Asked for, or the worker leaves; one that does neither must not be asked again and again.
        core.enqueue(job, 0.0 if task.revoked or not peer.takes_tasks else core.policy.backoff)
    elif kind is FailureKind.POOL_FULL:
        job.pool_full += 1
        core.enqueue(job, _backoff(core, job.pool_full))
    else:
        _retry(core, job, task, kind, message)


def keep_reserve(core: Core, peer: Peer) -> None:
    """Encoded inputs never fill a pool that a later stage on the same peer needs: the youngest that wait give way.

    The scheduler sees to that too (`Peer.has_room`), but not in a pool that turned out to be smaller than announced.
    """
    if len(peer.stages) == 1 or peer.room == peer.slots:
        return
    encoded = [output for output in peer.outputs.values() if output.stage is Stage.ENCODE and output.wanted]
    jobs = (core.jobs.get(output.job_id) for output in encoded)
    waiting = sorted((job for job in jobs if job is not None and job.task is None), key=lambda job: job.seq)
    for job in waiting[::-1][: max(0, len(encoded) - peer.room + 1)]:
        core.start_over(job)


def _trust_pool(core: Core, peer: Peer) -> None:
    if peer.room < peer.slots and core.now >= peer.full_at + core.policy.pool_memory:
        peer.room += 1
        peer.full_at = core.now


def _retry(core: Core, job: Job, task: Task, kind: FailureKind, message: str) -> None:
    source = job.input if kind is FailureKind.TRANSFER else None
    job.avoid.add(task.incarnation)
    job.failures.append(Failure(core.now, source.incarnation if source is not None else ""))
    if kind is FailureKind.MODEL_ERROR:
        job.model_errors += 1
        if job.model_errors >= core.policy.max_model_errors:
            core.end(job, JobStatus.FAILED, kind, message)
            return
    failures = _proven_failures(core, job)
    if failures >= core.policy.max_failures:
        text = f"{failures} tasks failed, the last one with {kind.name}: {message}"
        core.end(job, JobStatus.FAILED, FailureKind.RETRIES_EXHAUSTED, text)
        return
    if source is not None:
        source.transfer_failures += 1
    spent = source is not None and source.transfer_failures >= core.policy.max_transfer_failures
    if spent or kind is FailureKind.INCOMPATIBLE:
        core.start_over(job)
    else:
        core.enqueue(job, _backoff(core, len(job.failures)))


def _proven_failures(core: Core, job: Job) -> int:
    """Failures that no loss explains: a peer from which nothing could be pulled counts once it is heard again (I6)."""
    job.failures = [failure for failure in job.failures if not failure.producer or failure.producer in core.peers]
    return sum(not failure.producer or core.peers[failure.producer].heard_at > failure.at for failure in job.failures)


def _backoff(core: Core, tries: int) -> float:
    return min(core.policy.backoff * 2.0**tries, core.policy.max_backoff)
