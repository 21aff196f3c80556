"""A job between its tasks: it waits, goes on with an output, starts over, ends."""

from __future__ import annotations

from diffusion_router.core import outputs
from diffusion_router.core.book import Book
from diffusion_router.core.events import FailureKind, JobChanged, JobEnded, JobStatus, JobSubmitted, R, Stage
from diffusion_router.core.lifecycle import OUTPUT_OF, Move
from diffusion_router.core.state import Job, Output, Peer


def submit(book: Book[R], event: JobSubmitted) -> None:
    if event.job_id in book.jobs:
        return
    job: Job[R] = Job(
        id=event.job_id,
        seq=next(book.order),
        deadline=event.deadline,
        shape=event.shape,
        kills=event.kills,
        ready_since=book.now,
        not_before=book.settle_until if event.restored else 0.0,
    )
    book.add(job)
    if not fail_as_poison(book, job):
        enqueue(book, job)


def fail_as_poison(book: Book[R], job: Job[R]) -> bool:
    poison = job.kills >= book.policy.max_kills
    if poison:
        text = f"{job.kills} workers died while they ran this job"
        end(book, job, Move.FAILED, FailureKind.POISON, text)
    return poison


def recorded(book: Book[R], job_id: str) -> None:
    """The store has its end: what was kept for it may go."""
    job = book.jobs.get(job_id)
    if job is not None and job.status.ended:
        book.remove(job)
        for output in list(job.outputs.values()):
            outputs.discard(book, output)


def end(book: Book[R], job: Job[R], move: Move, kind: FailureKind, message: str) -> None:
    """Ends a job short of its result, once. A task still under way is told to stop."""
    if not job.status.ended:
        abandon(book, job)
        book.move(job, move)
        for output in list(job.outputs.values()):
            outputs.discard(book, output)
        book.emit(JobEnded(job.id, job.status, kind, message))


def abandon(book: Book[R], job: Job[R]) -> None:
    """What it does now is not needed; to be followed by a move that takes the task from it."""
    if job.task is not None:
        book.cancel(job.task)


def enqueue(book: Book[R], job: Job[R], delay: float = 0.0) -> None:
    """The job waits for its stage, or for its first one where the input of this one is gone."""
    if job.input is not None and job.input.lost:
        start_over(book, job)
        return
    job.ready_since = book.now
    job.not_before = max(job.not_before, book.now + delay)
    if job.not_before > book.now:
        book.at(book.delayed, job.not_before, job)
    else:
        book.scheduler.push(job)
    holder = book.peers.get(job.input.incarnation) if job.input is not None else None
    if holder is not None:
        keep_reserve(book, holder)


def start_over(book: Book[R], job: Job[R]) -> None:
    """Everything can be computed anew from the job itself."""
    book.move(job, Move.STARTED_OVER)
    for output in list(job.outputs.values()):
        outputs.discard(book, output)
    enqueue(book, job)


def advance(book: Book[R], job: Job[R], output: Output[R]) -> None:
    """The job has this output: its next stage may start, or it is complete."""
    for other in list(job.outputs.values()):
        if other is not output:
            outputs.discard(book, other)
    book.move(job, OUTPUT_OF[output.stage], source=output)
    if job.status is JobStatus.COMPLETED:
        # Its output stays: the worker reports the result again until the store has it.
        book.emit(JobEnded(job.id, job.status, result=output.report))
    else:
        enqueue(book, job)
        book.emit(JobChanged(job.id))


def input_gone(book: Book[R], output: Output[R]) -> None:
    """An output that its peer keeps no longer, though nobody released it."""
    output.lost = True
    job = book.jobs.get(output.job_id)
    if job is not None and job.input is output and job.task is None:
        start_over(book, job)


def keep_reserve(book: Book[R], peer: Peer[R]) -> None:
    """Encoded inputs never fill a pool that a later stage on the same peer needs: the youngest that wait give way.

    The scheduler sees to that too (`Peer.needs`), but not in a pool that turned out to be smaller than announced.
    """
    if len(peer.stages) == 1 or peer.room == peer.slots:
        return
    encoded = [output for output in peer.outputs.values() if output.stage is Stage.ENCODE and output.wanted]
    jobs = (book.jobs.get(output.job_id) for output in encoded)
    waiting = sorted((job for job in jobs if job is not None and job.task is None), key=lambda job: job.seq)
    for job in waiting[::-1][: max(0, len(encoded) - peer.room + 1)]:
        start_over(book, job)
