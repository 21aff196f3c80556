"""Outputs that another peer of the same role and generation keeps a copy of: pulled, published, nothing computed."""

from __future__ import annotations

from dataclasses import replace

from diffusion_router.core import cache, outputs, sharing
from diffusion_router.core.book import Book
from diffusion_router.core.events import Execute, R, Stage, StageResult
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.state import Job, Output, Peer, Task


def begin(book: Book[R], output: Output[R]) -> bool:
    """Has a peer copy it. False: no job needs it, or there is none that could."""
    job = next((job for job_id in sorted(output.wanted_by) if (job := book.jobs.get(job_id)) is not None), None)
    keeper = find_keeper(book, output.stage, output.generation, _of_no_use(book, output)) if job is not None else None
    if keeper is None or job is None:
        return False
    task = Task(
        id=f"{output.task_id}.copy{next(book.order)}.{book.epoch}",
        job_id=job.id,
        stage=output.stage,
        incarnation=keeper.incarnation,
        attempt=0,
        input=output,
        sent_at=book.now,
        slots=1,
        nbytes=output.nbytes,
        copies=output,
    )
    outputs.read(book, task, output)
    output.copied_by = task.id
    book.own_copy(keeper, task)
    # What it keeps for nobody goes before more comes.
    cache.fit(book, keeper)
    book.emit(
        Execute(keeper.incarnation, task.id, job.id, output.stage, 0, output.report, job.deadline, order=0.0, copy=True)
    )
    return True


def find_keeper(book: Book[R], stage: Stage, generation: str, other_than: set[str]) -> Peer[R] | None:
    """The peer of the role with the most room, beside what its own tasks need."""
    able = (
        peer
        for peer in book.scheduler.staying(stage, generation)
        if peer.takes_tasks
        and peer.can_copy
        and peer.free_slots > max(peer.needs.values())
        and peer.incarnation not in other_than
    )
    return max(able, key=lambda peer: peer.free_slots, default=None)


def _of_no_use(book: Book[R], output: Output[R]) -> set[str]:
    """Peers that have it, or that it is to be kept for the loss of: they compute what it is a checkpoint of."""
    jobs = (book.jobs.get(job_id) for job_id in output.wanted_by) if output.parked is not None else ()
    tasks = (job.task for job in jobs if job is not None and job.task is not None)
    return {output.incarnation, *(task.incarnation for task in tasks if output not in task.reads)}


def made(book: Book[R], peer: Peer[R], task: Task[R], result: StageResult[R]) -> Output[R]:
    """A peer keeps a copy: whoever needs the original goes on with that."""
    source = task.copies
    assert source is not None, "a task that copies nothing"
    copy = book.keep(peer, replace(result, job_id=source.job_id, stage=source.stage, parked=source.parked))
    copy.conditioning, copy.made_at = source.conditioning, source.made_at
    wanting = [job for job_id in sorted(source.wanted_by) if (job := book.jobs.get(job_id)) is not None]
    for job in wanting:
        outputs.want(book, job, copy)
        _replace(book, job, source, copy)
    sharing.replace(book, source, copy)
    if copy.job_id not in source.wanted_by:
        outputs.discard(book, copy, copy.job_id)
    for job in wanting:
        outputs.discard(book, source, job.id)
    outputs.stop_reading(book, task)
    return copy


def _replace(book: Book[R], job: Job[R], source: Output[R], copy: Output[R]) -> None:
    if job.input is source:
        book.move(job, Move.INPUT_REPLACED, source=copy)
        if not job.state.has_task:
            book.scheduler.push(job)
