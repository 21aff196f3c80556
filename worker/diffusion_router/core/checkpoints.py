"""Checkpoints of denoisings that go on, kept by another peer: a denoiser that is lost takes little work with it.

Where `Policy.checkpoint` names seconds, a denoiser is asked for a checkpoint that is to be made within them, since its
task began or since the last one. It reports it as an output, of which another denoiser of its generation keeps a copy.
Then the original is released, and the copy before: at no time is there none once there was one. The job lists the copy
among its outputs and reads it only if its task is lost. A denoiser is asked only while there is somebody to keep the
copy, and room for one more slot beside what tasks need, on either side: no result waits for a checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from diffusion_router.core import copies, outputs
from diffusion_router.core.actions import AskCheckpoint
from diffusion_router.core.book import Book
from diffusion_router.core.events import FailureKind, R, Stage, StageResult
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.peer import Peer
from diffusion_router.core.saved import Outcome
from diffusion_router.core.state import Job, Output, Task


def ask(book: Book[R], peer: Peer[R], task: Task[R]) -> None:
    """To be called when a denoising makes a step, or what was kept of it is another."""
    seconds = book.policy.checkpoint
    job = book.jobs.get(task.job_id)
    if not seconds or task.checkpoint_id or book.now < task.checkpoint_not_before or job is None:
        return
    able = task.begun is not None and task.resumable and peer.can_checkpoint and peer.connected
    if not able or job.task is not task or task.parking or peer.draining or _under_way(job, task):
        return
    left = seconds - (book.now - _saved_at(job, task))
    keepers = copies.could_keep(book, Stage.DENOISE, peer.generation)
    if not copies.has_room(peer) or not any(copies.has_room(other) and other is not peer for other in keepers):
        if left <= 0:
            _leave_out(book, task)
        else:
            task.checkpoint_not_before = book.now + left
        return
    task.checkpoint_id = f"{task.id}.checkpoint{next(book.order)}.{book.epoch}"
    book.reserve(peer, task, 1)
    book.emit(AskCheckpoint(peer.incarnation, task.id, task.checkpoint_id, max(0.0, left)))


def asked(peer: Peer[R], checkpoint_id: str) -> Task[R] | None:
    """The task that was asked for it, if it still is to make it."""
    return next((task for task in peer.tasks.values() if task.checkpoint_id == checkpoint_id), None)


def not_asked(book: Book[R], peer: Peer[R], task: Task[R]) -> None:
    """It is not heard of any more."""
    if task.checkpoint_id:
        task.checkpoint_id = ""
        book.reserve(peer, task, -1)


def made(book: Book[R], peer: Peer[R], task: Task[R], result: StageResult[R]) -> None:
    """It is there: somebody is to copy it."""
    not_asked(book, peer, task)
    output = book.keep(peer, replace(result, job_id=task.job_id, stage=task.stage))
    job = book.jobs.get(task.job_id)
    if job is None or job.task is not task or output.parked is None or peer.draining:
        outputs.discard(book, output, task.job_id)
    elif not copies.begin(book, output):
        outputs.discard(book, output, task.job_id)
        _leave_out(book, task)


def not_made(book: Book[R], peer: Peer[R], task: Task[R], kind: FailureKind) -> None:
    not_asked(book, peer, task)
    _leave_out(book, task)
    if kind is not FailureKind.POOL_FULL:
        # It can't be carried, nor can the next one.
        task.checkpoint_not_before = float("inf")


def copied(book: Book[R], copy: Output[R]) -> None:
    """A peer keeps a copy of something: perhaps of a checkpoint that its job does not read."""
    job = book.jobs.get(copy.job_id)
    if copy.parked is None or job is None or job.id not in copy.wanted_by or job.input is copy:
        return
    if job.stage is not Stage.DENOISE or job.status.ended:
        outputs.discard(book, copy, job.id)
        return
    book.saved.outcomes[Outcome.KEPT] += 1
    maker = job.task.incarnation if job.task is not None else ""
    best = max((each for each in _spare(job) if each.incarnation != maker), key=_steps_done, default=None)
    for each in _spare(job):
        if each is not best and not each.copied_by:
            outputs.discard(book, each, job.id)
    if job.task is not None:
        ask(book, book.peers[maker], job.task)
    else:
        _go_on_after_all(book, job)


def _go_on_after_all(book: Book[R], job: Job[R]) -> None:
    """The denoiser was lost before it was known that its last checkpoint had been copied."""
    step = job.step
    if go_back_to_best(book, job):
        regained = min(job.step - step, job.records[-1].lost_steps) if job.records else 0
        if regained:
            job.records[-1].lost_steps -= regained
            book.saved.lost_steps -= regained
        book.scheduler.push(job)


def not_copied(book: Book[R], output: Output[R]) -> None:
    """Whoever was to keep a copy does not. What protects nobody where it is goes."""
    job = book.jobs.get(output.job_id)
    if output.parked is None or job is None or job.task is None or output not in _spare(job):
        return
    if output.incarnation == job.task.incarnation:
        outputs.discard(book, output, job.id)
        _leave_out(book, job.task)


def lost(book: Book[R], output: Output[R]) -> None:
    """With its peer. What is computed is not to wait for the next one's time."""
    job = book.jobs.get(output.job_id)
    task = job.task if job is not None else None
    maker = book.peers.get(task.incarnation) if task is not None else None
    if output.parked is not None and task is not None and maker is not None and task.checkpoint_id:
        not_asked(book, maker, task)
        ask(book, maker, task)


def is_spare(book: Book[R], output: Output[R]) -> bool:
    """It is a checkpoint that its job would go on from only if it lost what it computes now."""
    job = book.jobs.get(output.job_id)
    return job is not None and job.task is not None and output in _spare(job)


def go_back_to_best(book: Book[R], job: Job[R]) -> bool:
    """It has no task any more, and goes on from the checkpoint that has come furthest. False: from what it had."""
    best = max(_spare(job), key=_steps_done, default=None)
    done = job.input.steps_done if job.input is not None else 0
    if best is None or best.steps_done <= done:
        return False
    before = job.input
    # Of a task that an earlier life of the router sent it may not be known what it read.
    book.move(job, Move.INPUT_REPLACED if before is not None else Move.PARKED, source=best)
    if before is not None and before.parked is not None:
        outputs.discard(book, before, job.id)
    assert best.parked is not None
    job.step, job.steps = best.parked.step, best.parked.steps
    book.saved.outcomes[Outcome.RESUMED] += 1
    return True


def give_up(book: Book[R], job: Job[R]) -> None:
    """What was computed is not to be trusted."""
    for output in _spare(job):
        outputs.discard(book, output, job.id)


def _spare(job: Job[R]) -> list[Output[R]]:
    """Checkpoints that are kept for it and that it does not read."""
    return [
        output
        for output in job.outputs.values()
        if output.parked is not None and job.id in output.wanted_by and not output.lost and output is not job.input
    ]


def _steps_done(output: Output[R]) -> int:
    return output.steps_done


def _under_way(job: Job[R], task: Task[R]) -> bool:
    """Whether one that it made is being copied."""
    return any(output.incarnation == task.incarnation for output in _spare(job))


def _saved_at(job: Job[R], task: Task[R]) -> float:
    """Since when its work would be lost with its peer."""
    assert task.begun is not None
    kept = [output.made_at for output in _spare(job) if output.incarnation != task.incarnation]
    return max([task.begun[0], *kept])


def _leave_out(book: Book[R], task: Task[R]) -> None:
    book.saved.outcomes[Outcome.LEFT_OUT] += 1
    task.checkpoint_not_before = book.now + book.policy.checkpoint
