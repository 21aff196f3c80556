"""One try of a stage on one peer: how it starts, and what follows when it is done or has failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from diffusion_router.core import cache, checkpoints, copies, jobs, leaving, outputs, sharing
from diffusion_router.core.actions import Execute, JobChanged, JobKilled, ReleaseSlot
from diffusion_router.core.book import Book
from diffusion_router.core.events import FailureKind, Progressed, R, Stage, StageResult
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.peer import Loss, Peer, slots_needed
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Failure, Job, StageRecord, Task

# As far as the generation goes in which it failed.
_NOBODYS_FAULT: Final = frozenset(
    {
        FailureKind.CANCELLED,
        FailureKind.HANDED_BACK,
        FailureKind.POOL_FULL,
        FailureKind.TRANSFER,
        FailureKind.DEADLINE,
    }
)
# Seconds before a denoising ends in which the next one's input may be pulled.
_SOON: Final = 1.0
# After so many steps more, one that was told to park does not.
_STEPS_TO_PARK: Final = 3
_PERMANENT: Final = frozenset({FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE, FailureKind.DEADLINE})


def start(book: Book[R], job: Job[R], peer: Peer[R], order: float) -> None:
    stage, source = job.stage, job.input
    attempt = next_attempt(job, stage)
    task = Task(
        id=f"{job.id}.{stage.name.lower()}.{attempt}.{book.epoch}",
        job_id=job.id,
        stage=stage,
        incarnation=peer.incarnation,
        attempt=attempt,
        input=source,
        sent_at=book.now,
        slots=peer.slots_for(stage, source),
        nbytes=peer.bytes_for(stage, source),
        batch=job.company,
        # Only denoisings say how far they are.
        ends_soon=stage is not Stage.DENOISE,
    )
    if source is not None:
        outputs.read(book, task, source)
    # It will have loaded them by the time that the next job asks.
    peer.loaded |= job.adapters & peer.offered
    book.own(peer, task)
    task.at_once = peer.load <= 0
    cache.fit(book, peer)
    book.move(job, Move.SENT, task=task)
    if stage is not Stage.DECODE:
        job.step = source.steps_done if source is not None else 0
    jobs.record(job, StageRecord(stage, peer.pod_name, attempt, book.now - job.ready_since))
    report = source.report if source is not None else None
    book.emit(
        Execute(
            peer.incarnation,
            task.id,
            job.id,
            stage,
            attempt,
            report,
            job.deadline,
            alone=job.alone,
            order=order,
        )
    )
    book.emit(JobChanged(job.id))


def next_attempt(job: Job[R], stage: Stage) -> int:
    job.attempts[stage] = job.attempts.get(stage, 0) + 1
    return job.attempts[stage]


def progress(book: Book[R], peer: Peer[R], event: Progressed) -> None:
    task = peer.tasks.get(event.task_id)
    if task is None:
        return
    book.begin(peer, task)
    task.resumable = event.resumable
    leaving.begun(book, task)
    if peer.draining:
        leaving.relieve(book, peer)
    job = book.jobs.get(task.job_id)
    if job is not None and job.task is task:
        if task.stage is Stage.DENOISE:
            skipped = task.input.steps_done if task.input is not None else 0
            job.step, job.steps = max(event.step, skipped), event.steps or job.steps
            if task.begun is not None and skipped < event.step <= event.steps:
                share = (event.step - skipped) / event.steps
                alone = (book.now - task.begun[0]) * book.share_alone(peer, task)
                book.estimates.suppose(task.stage, job.shape, alone / share)
            _makes_steps(book, peer, task, job)
            checkpoints.ask(book, peer, task)
        book.emit(JobChanged(job.id))


def _makes_steps(book: Book[R], peer: Peer[R], task: Task[R], job: Job[R]) -> None:
    if task.parking and (not task.resumable or job.step > task.parking_since[1] + _STEPS_TO_PARK):
        # Its checkpoint could not be carried, or the pool had no room for it.
        book.not_parking(task)
    left = book.estimates.seconds(Stage.DENOISE, job.shape) * job.share_left
    # A worker knows no number of steps before the first one is made.
    ends_soon = 0 < job.steps <= job.step + 1 or left <= _SOON
    if ends_soon is not task.ends_soon:
        # Of a shape that is not known yet it may turn out that it does not.
        task.ends_soon = ends_soon
        book.scheduler.changed(peer)
    if task.resumable:
        book.scheduler.giving_way.runs(peer, task, job, book.now)


def finish(book: Book[R], peer: Peer[R], result: StageResult[R]) -> None:
    if (copy := book.disown_copy(peer, result.task_id)) is not None:
        checkpoints.copied(book, copies.made(book, peer, copy, result))
        if copy.copies is not None:
            leaving.relieve(book, book.peers.get(copy.copies.incarnation))
        return
    if (maker := checkpoints.asked(peer, result.task_id)) is not None:
        checkpoints.made(book, peer, maker, result)
        return
    task = book.disown(peer, result.task_id)
    if task is None:
        if result.task_id not in peer.outputs:
            book.emit(ReleaseSlot(peer.incarnation, result.task_id))
        return
    output = book.keep(peer, replace(result, job_id=task.job_id, stage=task.stage))
    job = book.jobs.get(task.job_id)
    if job is None or job.task is not task:
        outputs.discard(book, output, task.job_id)
    else:
        _trust_pool(book, peer)
        _learn(book, peer, task, job, result)
        if job.records:
            job.records[-1].report = result.report
        job.not_before = 0.0
        if task.parking and result.parked is not None:
            book.estimates.learn_pause(book.now - task.parking_since[0])
            job.parks += not peer.draining
        jobs.advance(book, job, output)
    outputs.stop_reading(book, task)
    leaving.relieve(book, peer)


def _learn(book: Book[R], peer: Peer[R], task: Task[R], job: Job[R], result: StageResult[R]) -> None:
    """How long the stage takes alone, from one that made all steps of it, or from its part of the steps."""
    book.batches.makes(peer.generation, job.batch, result.forwards)
    skipped = task.input.parked if task.input is not None else None
    if result.parked is not None or (skipped is not None and skipped.step >= skipped.steps):
        return
    share = 1.0 - skipped.step / skipped.steps if skipped is not None else 1.0
    seconds = result.compute_seconds * task.alone_share / share
    book.estimates.learn(task.stage, job.shape, seconds)
    book.tallies.done(peer.generation, task.stage, job.shape, seconds)


def fail(book: Book[R], peer: Peer[R], task_id: str, kind: FailureKind, message: str) -> None:
    if (copy := book.disown_copy(peer, task_id)) is not None:
        not_copied(book, copy)
        return
    if (maker := checkpoints.asked(peer, task_id)) is not None:
        checkpoints.not_made(book, peer, maker, kind)
        return
    task = book.disown(peer, task_id)
    if task is None:
        return
    outputs.stop_reading(book, task)
    job = take_back(book, task, trust=kind is not FailureKind.MODEL_ERROR)
    made_room = kind is FailureKind.POOL_FULL and cache.clear(book, peer, Eviction.ROOM)
    if kind is FailureKind.POOL_FULL and not made_room:
        book.set_room(peer, max(slots_needed(peer.stages), min(peer.room, peer.slots_used)))
        jobs.keep_reserve(book, peer)
    if job is None:
        return
    if kind not in _NOBODYS_FAULT:
        book.tallies.failed(peer.generation)
        if kind is not FailureKind.STALLED and jobs.begin_elsewhere(book, job, peer.generation):
            return
    if kind in _PERMANENT:
        jobs.end(book, job, Move.FAILED, kind, message)
    elif kind in (FailureKind.HANDED_BACK, FailureKind.CANCELLED):
        # Asked for, or the worker leaves; one that does neither must not be asked again and again.
        jobs.enqueue(book, job, 0.0 if task.revoked or not peer.takes_tasks else book.policy.backoff)
    elif kind is FailureKind.STALLED:
        # The worker says so with its last breath: what stood still is known to have cost it.
        job.avoid |= {task.incarnation}
        blame(book, job)
        _try_again(book, job, peer)
    elif made_room:
        jobs.enqueue(book, job)
    elif kind is FailureKind.POOL_FULL:
        job.pool_full += 1
        jobs.enqueue(book, job, _backoff(book, job.pool_full))
    else:
        _retry(book, job, task, kind, message)


def not_copied(book: Book[R], copy: Task[R], until: float | None = None) -> None:
    """A copy came to nothing. until: its peer is lost, but may be alive and read until then."""
    if until is None:
        copies.not_made(book, copy)
    else:
        outputs.stop_reading_at(book, copy, until)
    if copy.copies is not None:
        checkpoints.not_copied(book, copy.copies)
        leaving.relieve(book, book.peers.get(copy.copies.incarnation))


def take_back(book: Book[R], task: Task[R], *, trust: bool = True) -> Job[R] | None:
    """The task is over and left no output. Its job, unless that has moved on without it.

    trust: the job is to go on from the last checkpoint of it that somebody keeps.
    """
    job = book.jobs.get(task.job_id)
    if job is None or job.task is not task:
        return None
    came_to = job.step
    book.move(job, Move.RETURNED)
    if task.stage is Stage.DENOISE:
        _go_back(book, job, came_to, trust=trust)
    return job


def _go_back(book: Book[R], job: Job[R], came_to: int, *, trust: bool) -> None:
    if not trust:
        checkpoints.give_up(book, job)
    if not checkpoints.go_back_to_best(book, job) and job.input is not None:
        job.step = job.input.steps_done
    lost = max(0, came_to - job.step)
    if lost and job.records:
        job.records[-1].lost_steps = lost
        book.saved.lost_steps += lost


def lose(book: Book[R], peer: Peer[R], task: Task[R], loss: Loss) -> None:
    """Its peer is lost; the worker may be alive and go on reading for a while."""
    outputs.stop_reading_at(book, task, book.now + book.policy.grace)
    job = take_back(book, task)
    if job is None:
        return
    if task.started and loss is Loss.DIED:
        blame(book, job)
    if task.started and loss is Loss.SILENT:
        job.suspect = True
    if task.started and loss is not Loss.LEFT:
        book.tallies.failed(peer.generation)
        _try_again(book, job, peer)
    elif not job.status.ended:
        jobs.enqueue(book, job)


def _try_again(book: Book[R], job: Job[R], peer: Peer[R]) -> None:
    if not (job.status.ended or jobs.begin_elsewhere(book, job, peer.generation)):
        jobs.enqueue(book, job)


def blame(book: Book[R], job: Job[R]) -> None:
    """A worker died while it computed this job (I11)."""
    job.kills += 1
    book.emit(JobKilled(job.id, job.kills))
    jobs.fail_as_poison(book, job)


def _trust_pool(book: Book[R], peer: Peer[R]) -> None:
    if peer.room < peer.slots and book.now >= peer.full_at + book.policy.pool_memory:
        book.set_room(peer, peer.room + 1)


def _retry(book: Book[R], job: Job[R], task: Task[R], kind: FailureKind, message: str) -> None:
    source = task.input if kind is FailureKind.TRANSFER else None
    job.avoid |= {task.incarnation}
    job.failures.append(Failure(book.now, source.incarnation if source is not None else ""))
    if kind is FailureKind.MODEL_ERROR:
        if task.input is not None:
            # It may be at fault, and nobody else is to begin with it.
            sharing.forget(book, task.input)
        job.model_errors += 1
        if job.model_errors >= book.policy.max_model_errors:
            jobs.end(book, job, Move.FAILED, kind, message)
            return
    failures = _proven_failures(book, job)
    if failures >= book.policy.max_failures:
        text = f"{failures} tasks failed, the last one with {kind.name}: {message}"
        jobs.end(book, job, Move.FAILED, FailureKind.RETRIES_EXHAUSTED, text)
        return
    if source is not None:
        source.transfer_failures += 1
    spent = source is not None and source.transfer_failures >= book.policy.max_transfer_failures
    if (spent and job.input is source) or kind is FailureKind.INCOMPATIBLE:
        jobs.go_back(book, job)
    else:
        jobs.enqueue(book, job, _backoff(book, len(job.failures)))


def _proven_failures(book: Book[R], job: Job[R]) -> int:
    """Failures that no loss explains: a peer from which nothing could be pulled counts once it is heard again (I6)."""
    job.failures = [failure for failure in job.failures if not failure.producer or failure.producer in book.peers]
    return sum(not failure.producer or book.peers[failure.producer].heard_at > failure.at for failure in job.failures)


def _backoff(book: Book[R], tries: int) -> float:
    return min(book.policy.backoff * 2.0**tries, book.policy.max_backoff)
