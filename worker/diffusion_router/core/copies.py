"""Outputs that another peer of the same generation keeps a copy of: pulled, published, nothing computed.

It is one of the same role; what encoders made a denoiser keeps too, where no encoder can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from diffusion_router.core import cache, outputs, sharing
from diffusion_router.core.actions import CancelTask, Execute, ReleaseSlot
from diffusion_router.core.book import Book
from diffusion_router.core.events import R, Stage, StageResult
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.peer import Peer
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Job, Output, Task


def begin(book: Book[R], output: Output[R]) -> bool:
    """Has a peer copy what jobs need. False: none does, or there is no peer that could."""
    job = next((job for job_id in sorted(output.wanted_by) if (job := book.jobs.get(job_id)) is not None), None)
    unable = _of_no_use(book, output) if job is not None else set()
    keeper = _keeper(book, output, lambda peer: has_room(peer) and peer.incarnation not in unable)
    if keeper is None or job is None:
        return False
    _send(book, output, keeper, job.id, job.deadline)
    return True


def begin_for_jobs_to_come(book: Book[R], output: Output[R], until: float) -> bool:
    """Has a peer copy what no job needs, if nothing has to give way to it there."""
    keeper = _keeper(book, output, lambda peer: _has_spare_room(output, peer))
    if keeper is None:
        return False
    _send(book, output, keeper, output.job_id, until)
    return True


def has_room(peer: Peer[R]) -> bool:
    """Beside what its own tasks need."""
    return peer.free_slots > peer.spared


def could_keep(book: Book[R], stage: Stage, generation: str) -> Iterable[Peer[R]]:
    """Peers of the role that can copy."""
    return (peer for peer in book.generations.staying(stage, generation) if peer.takes_tasks and peer.can_copy)


def _keeper(book: Book[R], output: Output[R], able: Callable[[Peer[R]], bool]) -> Peer[R] | None:
    """The one with the most room."""
    some = [peer for peer in could_keep(book, output.stage, output.generation) if able(peer)]
    if not some and output.stage is Stage.ENCODE:
        others = could_keep(book, Stage.DENOISE, output.generation)
        some = [peer for peer in others if peer.keeps_conditioning and able(peer)]
    return max(some, key=lambda peer: peer.free_slots, default=None)


def _has_spare_room(output: Output[R], peer: Peer[R]) -> bool:
    """Whether nothing would have to give way, and its own share has room."""
    coming = [task.nbytes for task in peer.copies.values() if task.copies is not None and not task.copies.wanted_by]
    return (
        peer.slots_used < peer.room - peer.spared
        and len(peer.cached) + len(coming) < peer.cacheable_slots
        and peer.cached_bytes + sum(coming) + output.nbytes <= peer.cacheable_bytes
        and (not peer.pool_bytes or peer.bytes_used + output.nbytes <= peer.pool_bytes)
    )


def _of_no_use(book: Book[R], output: Output[R]) -> set[str]:
    """Peers that have it, or that it is to be kept for the loss of: they compute what it is a checkpoint of."""
    jobs = (book.jobs.get(job_id) for job_id in output.wanted_by) if output.parked is not None else ()
    tasks = (job.task for job in jobs if job is not None and job.task is not None)
    return {output.incarnation, *(task.incarnation for task in tasks if output not in task.reads)}


def _send(book: Book[R], output: Output[R], keeper: Peer[R], job_id: str, deadline: float) -> None:
    task = Task(
        id=f"{output.task_id}.copy{next(book.order)}.{book.epoch}",
        job_id=job_id,
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
    book.emit(Execute(keeper.incarnation, task.id, job_id, output.stage, 0, output.report, deadline, copy=True))


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
    if copy.task_id in peer.cached:
        # Those used later were copied before it.
        peer.cached.move_to_end(copy.task_id, last=False)
    for job in wanting:
        outputs.discard(book, source, job.id)
    outputs.stop_reading(book, task)
    return copy


def not_made(book: Book[R], task: Task[R]) -> None:
    """It failed. What jobs wait with is tried again; what none needs is not."""
    source = task.copies
    if source is not None and not source.wanted_by:
        sharing.forget(book, source)
        book.reuse.evictions[Eviction.GONE] += 1
    outputs.stop_reading(book, task)


def call_off(book: Book[R], keeper: Peer[R]) -> None:
    """Nobody will hear how its copies for jobs to come end: neither side is to wait for that."""
    for task in list(keeper.copies.values()):
        if task.copies is not None and not task.copies.wanted_by:
            book.emit(CancelTask(keeper.incarnation, task.id))
            book.emit(ReleaseSlot(keeper.incarnation, task.id))
            cache.evict(book, task.copies, Eviction.GONE)


def _replace(book: Book[R], job: Job[R], source: Output[R], copy: Output[R]) -> None:
    if job.input is source:
        book.move(job, Move.INPUT_REPLACED, source=copy)
        if not job.state.has_task:
            book.scheduler.push(job)
