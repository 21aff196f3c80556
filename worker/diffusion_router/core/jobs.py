"""A job between its tasks: it waits, goes on with an output, starts over, ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from diffusion_router.core import outputs, sharing
from diffusion_router.core.actions import JobChanged, JobEnded
from diffusion_router.core.book import Book
from diffusion_router.core.events import FailureKind, JobStatus, JobSubmitted, R, Stage
from diffusion_router.core.lifecycle import OUTPUT_OF, Move
from diffusion_router.core.offers import of_scheduler
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job, Output, StageRecord

# Tries kept for the stage table.
_MAX_RECORDS: Final = 32


def submit(book: Book[R], event: JobSubmitted) -> None:
    if event.job_id in book.jobs:
        return
    job: Job[R] = Job(
        id=event.job_id,
        seq=next(book.order),
        deadline=event.deadline,
        shape=event.shape,
        batch=event.batch,
        kills=event.kills,
        encodes=event.conditioning,
        ready_since=book.now,
        since=book.now if event.since is None else event.since,
        target=event.target,
        priority=event.priority,
        tenant=event.tenant,
        adapters=event.adapters | of_scheduler(event.scheduler),
        not_before=book.settle_until if event.restored else 0.0,
        begins_in=book.shares.of(event.job_id),
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
            output.sharers.discard(job.id)
            outputs.discard(book, output, job.id)


def end(book: Book[R], job: Job[R], move: Move, kind: FailureKind, message: str) -> None:
    """Ends a job short of its result, once. A task still under way is told to stop."""
    if not job.status.ended:
        abandon(book, job)
        book.move(job, move)
        for output in list(job.outputs.values()):
            outputs.discard(book, output, job.id)
        book.emit(JobEnded(job.id, job.status, kind, message))


def abandon(book: Book[R], job: Job[R]) -> None:
    """What it does now is not needed; to be followed by a move that takes the task from it."""
    if job.task is not None:
        book.cancel(job.task)


def enqueue(book: Book[R], job: Job[R], delay: float = 0.0) -> None:
    """The job waits for its stage, or for its first one where the input of this one is gone."""
    if job.input is not None and not _is_kept(job, job.input):
        go_back(book, job)
        return
    if job.conditioning and job.stage is Stage.ENCODE:
        made = sharing.join(book, job)
        if made is not None:
            advance(book, job, made)
            return
    job.ready_since = book.now
    job.not_before = max(job.not_before, book.now + delay)
    if job.follows:
        return
    if job.not_before > book.now:
        book.at(book.delayed, job.not_before, job)
    else:
        book.scheduler.push(job)
    holder = book.peers.get(job.input.incarnation) if job.input is not None else None
    if holder is not None:
        keep_reserve(book, holder)


def go_back(book: Book[R], job: Job[R]) -> None:
    """What it reads is lost, or of no use: it goes on from the best that is left of what was made for it."""
    gone = job.input
    left = (each for each in job.outputs.values() if each is not gone and each.feeds is job.stage)
    best = max((each for each in left if _is_kept(job, each)), key=attrgetter("steps_done"), default=None)
    if gone is None or best is None:
        start_over(book, job)
        return
    sharing.forget(book, gone)
    book.move(job, Move.INPUT_REPLACED, source=best)
    job.step = best.steps_done
    outputs.discard(book, gone, job.id)
    enqueue(book, job)


def _is_kept(job: Job[R], output: Output[R]) -> bool:
    return job.id in output.wanted_by and not output.lost


def start_over(book: Book[R], job: Job[R]) -> None:
    """Everything can be computed anew from the job itself."""
    if job.input is not None:
        sharing.forget(book, job.input)
    book.move(job, Move.STARTED_OVER)
    for output in list(job.outputs.values()):
        outputs.discard(book, output, job.id)
    enqueue(book, job)


def begin_by_shares(book: Book[R]) -> None:
    """The shares of generations are others: so is where those begin that have not."""
    for job in list(book.jobs.values()):
        if job.stage is Stage.ENCODE and not (job.status.ended or job.state.has_task):
            begins_in = book.shares.of(job.id, job.failed_in)
            if begins_in != job.begins_in:
                _begin_in(book, job, begins_in)
                enqueue(book, job)


def begin_elsewhere(book: Book[R], job: Job[R], generation: str) -> bool:
    """It failed in this generation: while another takes over from it, or it from another, that one is to have a try.

    So a generation that is of no use costs no job. False: there is no other that it has not failed in.
    """
    failed_in = job.failed_in | {generation}
    other = book.shares.of(job.id, failed_in)
    if not (other and other in book.generations.complete and book.generations.offers.by_any(other, job.adapters)):
        return False
    job.failed_in, job.model_errors = failed_in, 0
    if job.stage is Stage.ENCODE:
        _begin_in(book, job, other)
        enqueue(book, job)
    else:
        job.begins_in = other
        start_over(book, job)
    return True


def _begin_in(book: Book[R], job: Job[R], generation: str) -> None:
    """To be done to one that is to encode. Who begins in one generation does not go on with what another made."""
    if job.begins_in != generation:
        book.leave_encoding(job)
        job.begins_in = generation


def advance(book: Book[R], job: Job[R], output: Output[R]) -> None:
    """The job has this output: its next stage may start, or it is complete. So for whoever waited for it to encode."""
    _go_on(book, [job, *sharing.made(book, job, output)], output)


def share(book: Book[R], job: Job[R], output: Output[R]) -> None:
    """The job has no need of this output, but whoever waited for it to encode goes on with it."""
    output.wanted_by.discard(job.id)
    _go_on(book, sharing.made(book, job, output), output)
    outputs.discard(book, output, job.id)


def _go_on(book: Book[R], going: Sequence[Job[R]], output: Output[R]) -> None:
    # All of them want it before any is in the way of others: who is gives way with all that share its input.
    for job in going:
        _take_up(book, job, output)
    for job in going:
        if job.status is JobStatus.COMPLETED:
            # Its output stays: the worker reports the result again until the store has it.
            book.emit(JobEnded(job.id, job.status, result=output.report))
        else:
            if job.input is output:
                enqueue(book, job)
            book.emit(JobChanged(job.id))


def _take_up(book: Book[R], job: Job[R], output: Output[R]) -> None:
    outputs.want(book, job, output)
    for other in list(job.outputs.values()):
        # Should a checkpoint be lost, what it began with is still there.
        if other is not output and not (output.parked is not None and other.feeds is output.stage and not other.parked):
            outputs.discard(book, other, job.id)
    if output.job_id != job.id:
        holder = book.peers[output.incarnation].pod_name
        record(job, StageRecord(output.stage, holder, 0, book.now - job.ready_since, output.report, shared=True))
    book.move(job, OUTPUT_OF[output.stage] if output.parked is None else Move.PARKED, source=output)
    count_steps(job, output)


def count_steps(job: Job[R], output: Output[R]) -> None:
    """A router that was restarted has heard no progress."""
    if output.parked is not None:
        job.step, job.steps = output.parked.step, output.parked.steps
    elif output.steps:
        job.step = job.steps = output.steps


def record(job: Job[R], entry: StageRecord[R]) -> None:
    job.records.append(entry)
    del job.records[:-_MAX_RECORDS]


def input_gone(book: Book[R], output: Output[R]) -> None:
    """An output that its peer keeps no longer, though nobody released it."""
    output.lost = True
    for job_id in sorted(output.listed_by):
        job = book.jobs.get(job_id)
        if job is not None and job.input is output and job.task is None:
            go_back(book, job)


def keep_reserve(book: Book[R], peer: Peer[R]) -> None:
    """Encoded inputs never fill a pool that a later stage on the same peer needs: the youngest that wait give way.

    The scheduler sees to that too (`Peer.needs`), but not in a pool that turned out to be smaller than announced.
    """
    if peer.stages == {Stage.ENCODE} or peer.room == peer.slots:
        return
    # Who goes on with what one that encodes too made goes on there, and need not pull it.
    reserve = 1 if Stage.ENCODE in peer.stages else peer.spared
    encoded = [output for output in peer.outputs.values() if output.stage is Stage.ENCODE and output.wanted_by]
    waiting = [jobs for output in encoded if (jobs := _waiting_with(book, output))]
    waiting.sort(key=lambda jobs: jobs[0].seq)
    for jobs in waiting[::-1][: max(0, len(encoded) - peer.room + reserve)]:
        for job in jobs:
            if job.input in encoded:
                start_over(book, job)
            else:
                # It goes on from a checkpoint.
                give_up(book, job, encoded)


def give_up(book: Book[R], job: Job[R], some: Iterable[Output[R]]) -> None:
    """Of what is kept for it, what it does not read."""
    for output in some:
        if job.id in output.wanted_by and output is not job.input:
            outputs.discard(book, output, job.id)


def _waiting_with(book: Book[R], output: Output[R]) -> list[Job[R]]:
    """The jobs that want it, the oldest first; none if one of them does not wait."""
    jobs = [job for job_id in output.wanted_by if (job := book.jobs.get(job_id)) is not None]
    return sorted(jobs, key=lambda job: job.seq) if all(job.task is None for job in jobs) else []
