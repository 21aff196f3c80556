"""A peer that was told to leave: what it computes is parked, what it keeps is copied, and nothing is made twice (I12).

Its denoisings are parked as soon as somebody else could go on with them; until then it keeps computing. What it keeps
for a stage that has not begun is copied to another peer of its role, if one has room: a checkpoint to a denoiser,
conditioning to an encoder, or else to a denoiser. What a stage has begun with is let go: that stage's worker has its
own. So the peer holds nothing after one step and one transfer, and goes. Whatever can't be saved so is kept until its
grace is over.

What it keeps for jobs to come (`cache`) is copied too, the one used last first, to where nothing gives way to it, for
as long as `Policy.passing_on`: nobody waits for it, so the rest is let go.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from diffusion_router.core import cache, outputs, sharing
from diffusion_router.core.book import Book
from diffusion_router.core.events import CancelTask, Execute, ParkReason, R, ReleaseSlot, Stage, StageResult
from diffusion_router.core.lifecycle import Move
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Job, Output, Peer, Task


def begin(book: Book[R], peer: Peer[R]) -> None:
    """To be called when it says that it is told to leave, which it says again and again."""
    if not peer.keeps_until:
        peer.keeps_until = book.now + book.policy.passing_on
        heapq.heappush(book.letting_go, (peer.keeps_until, peer.incarnation))
    relieve(book, peer)


def pass_time(book: Book[R]) -> None:
    while book.letting_go and book.letting_go[0][0] <= book.now:
        peer = book.peers.get(heapq.heappop(book.letting_go)[1])
        if peer is not None:
            cache.clear(book, peer, Eviction.GONE)


def relieve_all(book: Book[R]) -> None:
    """To be called when somebody is there who was not."""
    book.to_relieve.update(dict.fromkeys(book.leaving))


def relieve(book: Book[R], peer: Peer[R] | None) -> None:
    """To be called when a peer begins to leave, or has something new, and now and then until it has nothing."""
    if peer is not None and peer.draining:
        book.to_relieve[peer.incarnation] = None


def pass_on(book: Book[R]) -> None:
    """To be called when all that can be started has been: what goes on at once need not be copied."""
    while book.to_relieve:
        peer = book.leaving.get(book.to_relieve.popitem()[0])
        if peer is not None and peer.connected:
            _pass_on(book, peer)


def _pass_on(book: Book[R], peer: Peer[R]) -> None:
    for task in peer.tasks.values():
        job = book.jobs.get(task.job_id)
        parkable = task.started and task.resumable and not (task.parking or task.abandoned)
        if job is not None and parkable and book.scheduler.has_others(job, [peer.generation]):
            book.park(task, ParkReason.LEAVES)
    for output in list(peer.outputs.values()):
        for task in list(_begun_with(book, output)):
            _let_go(book, task, output)
        if output.slots and not output.copied_by and _is_waited_with(book, output):
            _copy_for_jobs(book, output)
    _hand_down(book, peer)


def begun(book: Book[R], task: Task[R]) -> None:
    """To be called when a task computes: its worker has its own of what it reads."""
    for output in list(task.reads):
        if output.incarnation in book.leaving and output.incarnation != task.incarnation:
            _let_go(book, task, output)


def copied(book: Book[R], peer: Peer[R], task: Task[R], result: StageResult[R]) -> None:
    """A peer keeps a copy: whoever needs the original goes on with that."""
    source = task.copies
    assert source is not None, "a task that copies nothing"
    holder = book.peers.get(source.incarnation)
    made = book.keep(peer, replace(result, job_id=source.job_id, stage=source.stage, parked=source.parked))
    made.conditioning = source.conditioning
    wanting = [job for job_id in sorted(source.wanted_by) if (job := book.jobs.get(job_id)) is not None]
    for job in wanting:
        outputs.want(book, job, made)
        _replace(book, job, source, made)
    sharing.replace(book, source, made)
    if made.job_id not in source.wanted_by:
        outputs.discard(book, made, made.job_id)
    if made.task_id in peer.cached:
        # Those used later were copied before it.
        peer.cached.move_to_end(made.task_id, last=False)
    relieve(book, holder)
    for job in wanting:
        outputs.discard(book, source, job.id)
    outputs.stop_reading(book, task)


def not_copied(book: Book[R], task: Task[R]) -> None:
    """It failed. What jobs wait with is tried again; what none needs is not."""
    source = task.copies
    if source is not None and not source.wanted_by:
        sharing.forget(book, source)
        book.reuse.evictions[Eviction.GONE] += 1
        relieve(book, book.peers.get(source.incarnation))
    outputs.stop_reading(book, task)


def call_off(book: Book[R], keeper: Peer[R]) -> None:
    """Nobody will hear how its copies for jobs to come end: neither side is to wait for that."""
    for task in list(keeper.copies.values()):
        if task.copies is not None and not task.copies.wanted_by:
            book.emit(CancelTask(keeper.incarnation, task.id))
            book.emit(ReleaseSlot(keeper.incarnation, task.id))
            cache.evict(book, task.copies, Eviction.GONE)


def _replace(book: Book[R], job: Job[R], source: Output[R], made: Output[R]) -> None:
    if job.input is source:
        book.move(job, Move.INPUT_REPLACED, source=made)
        if not job.state.has_task:
            book.scheduler.push(job)


def _begun_with(book: Book[R], output: Output[R]) -> Iterator[Task[R]]:
    """Tasks of other peers that compute with it."""
    for job_id in sorted(output.wanted_by):
        job = book.jobs.get(job_id)
        task = job.task if job is not None else None
        if task is not None and task.started and output in task.reads and task.incarnation != output.incarnation:
            yield task


def _is_waited_with(book: Book[R], output: Output[R]) -> bool:
    """Whether a job needs it for a stage that does not begin at once."""
    for job_id in output.wanted_by:
        task = job.task if (job := book.jobs.get(job_id)) is not None else None
        reader = book.peers.get(task.incarnation) if task is not None and output in task.reads else None
        if reader is None or reader.load > 0:
            return True
    return False


def _let_go(book: Book[R], task: Task[R], output: Output[R]) -> None:
    task.reads.remove(output)
    output.readers.discard(task.id)
    outputs.discard(book, output, task.job_id)


def _copy_for_jobs(book: Book[R], output: Output[R]) -> None:
    keeper = _keeper(book, output, lambda peer: peer.free_slots > peer.spared)
    job = next((job for job_id in sorted(output.wanted_by) if (job := book.jobs.get(job_id)) is not None), None)
    if keeper is not None and job is not None:
        _copy(book, output, keeper, job.id, job.deadline)


def _hand_down(book: Book[R], peer: Peer[R]) -> None:
    """What it keeps for jobs to come, the one used last first; all that is left once there is no room for one."""
    under_way = sum(bool(output.copied_by and not output.wanted_by) for output in peer.outputs.values())
    while peer.cached and under_way < book.policy.passed_on_at_once:
        output = next(reversed(peer.cached.values()))
        keeper = _keeper(book, output, partial(_has_spare_room, output))
        if keeper is None:
            cache.clear(book, peer, Eviction.GONE)
            return
        _copy(book, output, keeper, output.job_id, peer.keeps_until)
        under_way += 1


def _has_spare_room(output: Output[R], peer: Peer[R]) -> bool:
    """Whether nothing would have to give way, and its own share has room."""
    coming = [task.nbytes for task in peer.copies.values() if task.copies is not None and not task.copies.wanted_by]
    return (
        peer.slots_used < peer.room - peer.spared
        and len(peer.cached) + len(coming) < peer.cacheable_slots
        and peer.cached_bytes + sum(coming) + output.nbytes <= peer.cacheable_bytes
        and (not peer.pool_bytes or peer.bytes_used + output.nbytes <= peer.pool_bytes)
    )


def _copy(book: Book[R], output: Output[R], keeper: Peer[R], job_id: str, deadline: float) -> None:
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
    book.emit(
        Execute(keeper.incarnation, task.id, job_id, output.stage, 0, output.report, deadline, order=0.0, copy=True)
    )


def _keeper(book: Book[R], output: Output[R], has_room: Callable[[Peer[R]], bool]) -> Peer[R] | None:
    """The peer of its role with the most room, or, of conditioning, else a denoiser."""
    staying = book.scheduler.staying
    able = [peer for peer in staying(output.stage, output.generation) if peer.can_copy and peer.takes_tasks]
    able = [peer for peer in able if has_room(peer)]
    if not able and output.stage is Stage.ENCODE:
        others = staying(Stage.DENOISE, output.generation)
        able = [peer for peer in others if peer.keeps_conditioning and peer.takes_tasks and has_room(peer)]
    return max(able, key=lambda peer: peer.free_slots, default=None)
