"""What finished tasks left in the pools of peers, who may be reading it, and when its slot may be reused (I3).

A slot is released when nobody needs its bytes and nobody may be reading them, unless they are kept for jobs to come
(`cache`). Three kinds of reader count: tasks that the router sent; tasks of lost peers, until the grace is over; and,
for what was made in an earlier life of the router, tasks that it has not heard of yet.
"""

from __future__ import annotations

import heapq
from typing import Final

from diffusion_router.core import cache
from diffusion_router.core.actions import ReleaseSlot
from diffusion_router.core.book import Book
from diffusion_router.core.events import R, StageResult
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job, Output, Task

# Stands for readers of an earlier life that have not registered yet.
_UNKNOWN: Final = "unknown"


def adopt(book: Book[R], peer: Peer[R], result: StageResult[R]) -> Output[R]:
    """An output of an earlier life: it may be read by tasks that this router did not send."""
    output = book.keep(peer, result)
    known_at = max(
        book.settle_until + book.policy.grace,
        *(book.lost_readers.get(key, 0.0) for key in (output.task_id, output.job_id)),
    )
    if book.now < known_at:
        _read_until(book, known_at, output, _UNKNOWN)
    for task in [*adopted_readers(book, output), *book.adopted.get(output.job_id, ())]:
        if task.stage is output.feeds:
            read(book, task, output)
    return output


def adopted_readers(book: Book[R], output: Output[R]) -> list[Task[R]]:
    """Tasks of an earlier life that said that they read it."""
    return book.adopted.get(output.task_id, [])


def adopt_reader(book: Book[R], task: Task[R]) -> None:
    """A task of an earlier life. Where it does not say which output it reads, it may be any of the stage before."""
    book.adopted.setdefault(task.input_id or task.job_id, []).append(task)
    if task.input_id:
        kept = (peer.outputs.get(task.input_id) for peer in book.peers.values())
        for output in [output for output in kept if output is not None]:
            read(book, task, output)
        return
    job = book.jobs.get(task.job_id)
    outputs = job.outputs if job is not None else _of_unknown_job(book, task.job_id)
    for output in outputs.values():
        if task.stage is output.feeds:
            read(book, task, output)


def _of_unknown_job(book: Book[R], job_id: str) -> dict[str, Output[R]]:
    kept = (output for peer in book.peers.values() for output in peer.outputs.values())
    return {output.task_id: output for output in kept if output.job_id == job_id}


def read(book: Book[R], task: Task[R], output: Output[R]) -> None:
    book.uncache(output)
    output.readers.add(task.id)
    task.reads.append(output)


def stop_reading(book: Book[R], task: Task[R]) -> None:
    _forget_adopted(book, task)
    reads, task.reads = task.reads, []
    for output in reads:
        output.readers.discard(task.id)
        _release_if_free(book, output)


def stop_reading_at(book: Book[R], task: Task[R], until: float) -> None:
    """Its peer is lost, but may be alive and read until then."""
    if _forget_adopted(book, task):
        # What it reads may be on a peer that has not registered with this life of the router yet.
        _remember_lost(book, task.input_id or task.job_id, until)
    reads, task.reads = task.reads, []
    for output in reads:
        _read_until(book, until, output, task.id)


def want(book: Book[R], job: Job[R], output: Output[R]) -> None:
    """The job needs it, whoever it was made for."""
    book.uncache(output)
    output.wanted_by.add(job.id)
    job.outputs[output.task_id] = output
    if job.id != output.job_id:
        output.sharers.add(job.id)


def discard(book: Book[R], output: Output[R], job_id: str) -> None:
    """This job does not need it any more."""
    output.wanted_by.discard(job_id)
    _release_if_free(book, output)


def release_what_none_needs(book: Book[R], peer: Peer[R]) -> None:
    """Nobody will be there to tell when whoever was lost can't be reading any more. Until another router is, no slot is
    used again, and what is read from one that was is not what its digest says."""
    for output in list(peer.outputs.values()):
        if not output.wanted_by:
            book.drop(output)
            book.emit(ReleaseSlot(output.incarnation, output.task_id))


def pass_time(book: Book[R]) -> None:
    while book.passing and book.passing[0][0] <= book.now:
        _, _, output, reader = heapq.heappop(book.passing)
        output.readers.discard(reader)
        _release_if_free(book, output)


def _read_until(book: Book[R], until: float, output: Output[R], reader: str) -> None:
    book.uncache(output)
    output.readers.add(reader)
    heapq.heappush(book.passing, (until, next(book.order), output, reader))


def _forget_adopted(book: Book[R], task: Task[R]) -> bool:
    """Whether it was one."""
    key = task.input_id or task.job_id
    tasks = book.adopted.get(key)
    if tasks is None or task not in tasks:
        return False
    tasks.remove(task)
    if not tasks:
        del book.adopted[key]
    return True


def _remember_lost(book: Book[R], key: str, until: float) -> None:
    lost = book.lost_readers
    for other in [other for other, passed in lost.items() if passed <= book.now]:
        del lost[other]
    lost[key] = max(until, lost.get(key, 0.0))


def _release_if_free(book: Book[R], output: Output[R]) -> None:
    if output.wanted_by or output.readers or cache.keep(book, output):
        return
    peer = book.drop(output)
    if peer is not None:
        book.emit(ReleaseSlot(peer.incarnation, output.task_id))
