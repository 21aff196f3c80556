"""Peers come and go: what a worker that attaches still holds, what one that is lost takes with it.

The same code serves a worker's first registration, its return after a broken stream and its return to a router that
was restarted and knows nothing (I7). Reports are reconciled, never trusted to be the first word: what both sides know
is kept, what only the router knows never arrived or is gone, what only the worker knows is adopted if it still helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_router.core import tasks
from diffusion_router.core.events import (
    FailureKind,
    HeldTask,
    JobKilled,
    JobStatus,
    PeerLost,
    PeerRegistered,
    RefusalReason,
    Refuse,
    Stage,
    StageResult,
    Welcome,
)
from diffusion_router.core.state import Job, Peer, StageRecord, Task, slots_needed

if TYPE_CHECKING:
    from diffusion_router.core.machine import Core


def register(core: Core, event: PeerRegistered) -> None:
    if event.incarnation in core.fenced:
        text = "the lease of this incarnation ran out and its work was given to others; come back as a new one"
        core.emit(Refuse(event.incarnation, RefusalReason.FENCED, text))
        return
    for other in list(core.peers.values()):
        if event.pod_name and other.pod_name == event.pod_name and other.incarnation != event.incarnation:
            lose(core, other, f"replaced by a new incarnation of {event.pod_name}")
    refusal = _incompatibility(core, event)
    if refusal:
        core.emit(Refuse(event.incarnation, RefusalReason.INCOMPATIBLE, refusal))
        return
    peer = core.peers.get(event.incarnation)
    if peer is None:
        peer = Peer(
            incarnation=event.incarnation,
            pod_name=event.pod_name,
            stages=event.stages,
            generation=event.generation,
            mode=event.mode,
            model=event.model,
            capacity=event.capacity,
            slots=event.slots,
            prefetch=core.policy.prefetch,
            lease_until=core.now + core.policy.lease,
        )
        core.peers[peer.incarnation] = peer
        core.watch_lease(peer)
    peer.connected, peer.draining = True, event.draining
    core.hear(peer.incarnation)
    core.changed(peer)
    core.emit(Welcome(peer.incarnation))
    _forget_what_is_gone(core, peer, event)
    for held in event.tasks:
        if held.task_id not in peer.tasks:
            _adopt_task(core, peer, held)
    for result in event.outputs:
        if result.task_id not in peer.outputs:
            _adopt_output(core, peer, result)


def lose(core: Core, peer: Peer, reason: str) -> None:
    """Fences an incarnation; what it ran is tried elsewhere, what it kept is made anew where it is still needed."""
    del core.peers[peer.incarnation]
    core.changed(peer)
    core.fenced[peer.incarnation] = core.now
    while len(core.fenced) > core.policy.max_fenced:
        del core.fenced[next(iter(core.fenced))]
    core.emit(PeerLost(peer.incarnation, reason))
    for output in peer.outputs.values():
        output.lost = True
    for task in peer.tasks.values():
        core.outputs.stop_reading_at(task, core.now + core.policy.grace)
        job = core.jobs.get(task.job_id)
        if job is not None and job.task is task:
            job.task = None
            _retry_after_loss(core, job, task)
    for output in peer.outputs.values():
        job = core.jobs.get(output.job_id)
        if job is not None:
            job.outputs.pop(output.task_id, None)
            if job.input is output and job.task is None:
                core.start_over(job)


def _retry_after_loss(core: Core, job: Job, task: Task) -> None:
    if task.started:
        job.kills += 1
        core.emit(JobKilled(job.id, job.kills))
    if job.kills >= core.policy.max_kills:
        core.end(job, JobStatus.FAILED, FailureKind.POISON, f"{job.kills} workers died while they ran this job")
    else:
        core.enqueue(job)


def _incompatibility(core: Core, event: PeerRegistered) -> str:
    if not event.stages:
        return f"{event.pod_name} registers without a role: start it with --role encoder, denoiser or decoder"
    if event.capacity < 1:
        return f"{event.pod_name} registers with capacity {event.capacity}: it must run at least one task at once"
    if event.slots < slots_needed(event.stages):
        return (
            f"{event.pod_name} has a pool of {event.slots} slots, but its roles need {slots_needed(event.stages)}, for "
            "an input and an output at once: raise transport.poolSize"
        )
    for other in core.peers.values():
        if other.incarnation == event.incarnation or other.generation != event.generation:
            continue
        if other.mode != event.mode:
            return (
                f"{event.pod_name} moves tensors by {event.mode}, but {other.pod_name} of the same generation by "
                f"{other.mode}: give both the same devices, or set transport.protocol to one of the two"
            )
        if other.model != event.model:
            return (
                f"{event.pod_name} has model files {event.model}, but {other.pod_name} of the same generation has "
                f"{other.model}: pin model.revision"
            )
    return ""


def _forget_what_is_gone(core: Core, peer: Peer, event: PeerRegistered) -> None:
    held = {task.task_id: task for task in event.tasks}
    results = {result.task_id: result for result in event.outputs}
    for task in list(peer.tasks.values()):
        if task.id in held:
            task.started = task.started or held[task.id].started
            # What was asked of it may not have arrived.
            task.revoked = False
            if task.abandoned:
                core.cancel(task)
        elif task.id in results:
            tasks.finish(core, peer, results[task.id])
        else:
            core.disown(peer, task.id)
            core.outputs.stop_reading(task)
            job = core.jobs.get(task.job_id)
            if job is not None and job.task is task:
                job.task = None
                core.enqueue(job)
    for output in [output for output in peer.outputs.values() if output.task_id not in results]:
        del peer.outputs[output.task_id]
        output.lost = True
        job = core.jobs.get(output.job_id)
        if job is not None:
            job.outputs.pop(output.task_id, None)
            if job.input is output and job.task is None:
                core.start_over(job)


def _adopt_task(core: Core, peer: Peer, held: HeldTask) -> None:
    """A task of an earlier life of the router goes on, unless its job is over or further on."""
    job = core.jobs.get(held.job_id)
    stage = held.stage
    task = Task(
        id=held.task_id,
        job_id=held.job_id,
        stage=stage,
        incarnation=peer.incarnation,
        attempt=1 if job is None else tasks.next_attempt(job, stage),
        input=None,
        sent_at=core.now,
        # Its input may have been pulled.
        slots=int(stage is not Stage.ENCODE) + int(stage is not Stage.DECODE),
        received=held.started,
        started=held.started,
    )
    core.own(peer, task)
    core.outputs.adopt_reader(task)
    if job is None or not _leads(job, stage, held.started):
        core.cancel(task)
        return
    core.abandon(job)
    for output in list(job.outputs.values()):
        if output.stage != stage - 1:
            core.outputs.discard(output)
    if job.input is not None and job.input.stage != stage - 1:
        job.input = None
    task.input = job.input
    job.stage, job.task, job.status = stage, task, JobStatus.IN_PROGRESS
    tasks.record(job, StageRecord(stage, peer.pod_name, task.attempt, 0.0))


def _leads(job: Job, stage: Stage, started: bool) -> bool:
    """Whether a task of this stage brings its job further than what is under way."""
    if job.status.ended or stage < job.stage:
        return False
    current = job.task
    return stage > job.stage or current is None or (started and not current.started)


def _adopt_output(core: Core, peer: Peer, result: StageResult) -> None:
    job = core.jobs.get(result.job_id)
    output = core.outputs.adopt(peer, result, job, core.now)
    if job is None or job.status.ended:
        core.outputs.discard(output)
        return
    task = job.task
    if task is not None and task.stage == result.stage + 1 and task.input is None:
        task.input = job.input = output
    elif result.stage < job.stage:
        core.outputs.discard(output)
    else:
        core.abandon(job)
        job.status = JobStatus.IN_PROGRESS
        tasks.record(
            job, StageRecord(result.stage, peer.pod_name, tasks.next_attempt(job, result.stage), 0.0, result.timings)
        )
        core.advance(job, output, result.result)
