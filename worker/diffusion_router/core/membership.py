"""Peers come and go: what a worker that attaches still holds, what one that is lost takes with it.

The same code serves a worker's first registration, its return after a broken stream and its return to a router that
was restarted and knows nothing (I7). Reports are reconciled, never trusted to be the first word: what both sides know
is kept, what only the router knows never arrived or is gone, what only the worker knows is adopted if it still helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_router.core.events import (
    CancelTask,
    FailureKind,
    HeldTask,
    JobKilled,
    JobStatus,
    PeerLost,
    PeerRegistered,
    RefusalReason,
    Refuse,
    StageResult,
    Welcome,
)
from diffusion_router.core.state import Peer, Task

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
            lease_until=0.0,
        )
        core.peers[peer.incarnation] = peer
    peer.connected, peer.draining = True, event.draining
    peer.lease_until = core.now + core.policy.lease
    core.revision += 1
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
    core.revision += 1
    core.fenced[peer.incarnation] = core.now
    while len(core.fenced) > core.policy.max_fenced:
        del core.fenced[next(iter(core.fenced))]
    core.emit(PeerLost(peer.incarnation, reason))
    for output in peer.outputs.values():
        output.lost = True
    for task in peer.tasks.values():
        core.still_read(task)
        job = core.jobs.get(task.job_id)
        if job is None or job.task is not task:
            continue
        job.task = None
        if task.started:
            job.kills += 1
            core.emit(JobKilled(job.id, job.kills))
        if job.kills >= core.policy.max_kills:
            core.end(job, JobStatus.FAILED, FailureKind.POISON, f"{job.kills} workers died while they ran this job")
        else:
            core.enqueue(job)
    for output in peer.outputs.values():
        job = core.jobs.get(output.job_id)
        if job is None:
            continue
        job.outputs.pop(output.task_id, None)
        if job.input is output and job.task is None:
            core.start_over(job)


def _incompatibility(core: Core, event: PeerRegistered) -> str:
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
            if task.abandoned:
                core.emit(CancelTask(peer.incarnation, task.id))
        elif task.id in results:
            core.finish(peer, results[task.id])
        else:
            del peer.tasks[task.id]
            core.stop_reading(task)
            job = core.jobs.get(task.job_id)
            if job is not None and job.task is task:
                job.task = None
                core.enqueue(job)
    for output in list(peer.outputs.values()):
        if output.task_id in results:
            continue
        del peer.outputs[output.task_id]
        output.lost = True
        job = core.jobs.get(output.job_id)
        if job is not None:
            job.outputs.pop(output.task_id, None)
            if job.input is output and job.task is None:
                core.start_over(job)


def _adopt_task(core: Core, peer: Peer, held: HeldTask) -> None:
    job = core.jobs.get(held.job_id)
    source = job.input if job is not None and job.input is not None and job.input.stage == held.stage - 1 else None
    task = Task(
        id=held.task_id,
        job_id=held.job_id,
        stage=held.stage,
        incarnation=peer.incarnation,
        attempt=1,
        input=source,
        sent_at=core.now,
        slots=peer.slots_for(held.stage, source),
        received=held.started,
        started=held.started,
    )
    peer.tasks[task.id] = task
    if job is None or job.status.ended or job.task is not None or job.stage > held.stage:
        task.abandoned = True
        core.emit(CancelTask(peer.incarnation, task.id))
        return
    if source is not None:
        source.readers.add(task.id)
    elif job.input is not None:
        core.discard(job.input)
    job.stage, job.input, job.task = held.stage, source, task
    job.status = JobStatus.IN_PROGRESS


def _adopt_output(core: Core, peer: Peer, result: StageResult) -> None:
    job = core.jobs.get(result.job_id)
    output = core.keep(peer, result, job)
    if job is None or job.status.ended:
        core.discard(output)
        return
    task = job.task
    if task is not None and task.stage == result.stage + 1 and task.input is None:
        task.input = job.input = output
        output.readers.add(task.id)
        return
    reached = job.stage if task is None else task.stage
    if result.stage < reached:
        core.discard(output)
        return
    core.abandon(job)
    if job.input is not None:
        core.discard(job.input)
        job.input = None
    job.status = JobStatus.IN_PROGRESS
    core.advance(job, output, result)
