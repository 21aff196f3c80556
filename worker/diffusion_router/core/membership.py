"""Peers come and go: what a worker that attaches still holds, what one that is lost takes with it.

The same code serves a worker's first registration, its return after a broken stream and its return to a router that
was restarted and knows nothing (I7). Reports are reconciled, never trusted to be the first word: what both sides know
is kept, what only the router knows never arrived or is gone, what only the worker knows is adopted if it still helps.
"""

from __future__ import annotations

from diffusion_router.core import cache, checkpoints, jobs, leaving, outputs, sharing, tasks
from diffusion_router.core.actions import CancelTask, PeerLost, Refuse, ReleaseSlot, Welcome
from diffusion_router.core.book import Book
from diffusion_router.core.events import HeldTask, PeerRegistered, Process, R, RefusalReason, Stage, StageResult
from diffusion_router.core.lifecycle import HELD, Move
from diffusion_router.core.offers import NONE, of_scheduler
from diffusion_router.core.peer import Loss, Peer, Silent, slots_needed
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Job, Output, StageRecord, Task


def register(book: Book[R], event: PeerRegistered[R]) -> None:
    """Who is refused changes nothing: all checks come before anybody gives way (I15)."""
    refusal = _refusal(book, event)
    if refusal is not None:
        if refusal.reason is RefusalReason.FENCED:
            _hear_of_the_silent(book, event)
        book.emit(refusal)
        return
    for other in _namesakes(book, event):
        loss = Loss.LEFT if other.draining else Loss.DIED
        lose(book, other, f"replaced by a new incarnation of {event.pod_name}", loss)
    _learn_of_the_silent(book, event)
    peer = book.peers.get(event.incarnation) or _admit(book, event)
    peer.connected, peer.draining = True, event.draining
    peer.schedulers = NONE.union(*map(of_scheduler, event.schedulers))
    peer.can_copy, peer.can_checkpoint = event.copies, event.checkpoints
    # Its own kind must be able to pull it, and pulls from encoders.
    peer.keeps_conditioning = event.keeps_conditioning and event.pulls in ("", event.mode)
    _agree_on_share(book, peer)
    peer.offered, peer.loaded = event.adapters.offered | peer.schedulers, event.adapters.loaded | peer.schedulers
    book.hear(peer.incarnation)
    book.changed(peer)
    book.emit(Welcome(peer.incarnation))
    _forget_what_is_gone(book, peer, event)
    # What this life of the router has given, it knows; only of an earlier one is a worker's word taken.
    for held in event.tasks:
        if held.task_id not in peer.tasks and held.task_id not in peer.copies:
            # What an earlier life wanted copied is still where it was.
            if held.copy or book.gave(held.task_id):
                book.emit(CancelTask(peer.incarnation, held.task_id))
            else:
                _adopt_task(book, peer, held)
    for result in event.outputs:
        if result.task_id not in peer.outputs:
            if book.gave(result.task_id):
                book.emit(ReleaseSlot(peer.incarnation, result.task_id))
            else:
                _adopt_output(book, peer, result)
    if peer.draining:
        leaving.begin(book, peer)
    cache.fit(book, peer)
    _relieve(book, peer)
    leaving.relieve_all(book)


def _refusal(book: Book[R], event: PeerRegistered[R]) -> Refuse | None:
    if event.incarnation in book.fenced:
        text = "the lease of this incarnation ran out and its work was given to others; come back as a new one"
        return Refuse(event.incarnation, RefusalReason.FENCED, text)
    if text := _incompatibility(book, event):
        return Refuse(event.incarnation, RefusalReason.INCOMPATIBLE, text)
    for other in _namesakes(book, event):
        if other.connected and not _follows(event.process, other.process):
            text = (
                f"{event.pod_name} is the name of a worker that is here. If that one is gone, this is found out within "
                f"{book.policy.lease:g} s"
            )
            return Refuse(event.incarnation, RefusalReason.NAME_TAKEN, text)
    return None


def _namesakes(book: Book[R], event: PeerRegistered[R]) -> list[Peer[R]]:
    """Other incarnations of this pod name, which has one process at a time."""
    return [
        other
        for other in book.peers.values()
        if event.pod_name and other.pod_name == event.pod_name and other.incarnation != event.incarnation
    ]


def _follows(process: Process | None, other: Process | None) -> bool:
    return process is not None and other is not None and process.follows(other)


def _learn_of_the_silent(book: Book[R], event: PeerRegistered[R]) -> None:
    """Whether whoever fell silent under this name had died: only another process in the same pod says so. One that
    comes back lives, and a pod that was replaced may have been taken away with its node."""
    silent = book.silent.pop(event.pod_name, None)
    if silent is None or not _follows(event.process, silent.process):
        return
    for job_id in silent.job_ids:
        job = book.jobs.get(job_id)
        if job is not None and not job.status.ended:
            tasks.blame(book, job)


def _hear_of_the_silent(book: Book[R], event: PeerRegistered[R]) -> None:
    """One that was fenced says that it lives: should it die before it is back, it did not die of what it had then."""
    silent = book.silent.get(event.pod_name)
    if silent is not None and silent.process == event.process:
        del book.silent[event.pod_name]


def _admit(book: Book[R], event: PeerRegistered[R]) -> Peer[R]:
    peer: Peer[R] = Peer(
        incarnation=event.incarnation,
        pod_name=event.pod_name,
        stages=event.stages,
        generation=event.generation,
        mode=event.mode,
        ip=event.ip,
        pulls=event.pulls,
        model=event.model,
        capacity=event.capacity,
        slots=event.slots,
        pool_bytes=event.pool_bytes,
        cache_share=event.cache_share,
        prefetch=book.policy.prefetch,
        process=event.process,
        lease_until=book.now + book.policy.lease,
    )
    book.peers[peer.incarnation] = peer
    book.watch_lease(peer)
    return peer


def _agree_on_share(book: Book[R], peer: Peer[R]) -> None:
    """Who does not encode may keep of what encoders made as large a share of its pool as they of theirs."""
    same = [other for other in book.peers.values() if other.generation == peer.generation and other is not peer]
    if Stage.ENCODE in peer.stages:
        for other in same:
            if Stage.ENCODE not in other.stages:
                other.cache_share = peer.cache_share
                cache.fit(book, other)
    else:
        peer.cache_share = max((other.cache_share for other in same), default=0.0)


def fall_silent(book: Book[R], peer: Peer[R]) -> None:
    """Nothing was heard of it for a lease. That costs time, and is no kill: it may be a network that is cut."""
    computed = tuple(task.job_id for task in peer.tasks.values() if task.started and not task.abandoned)
    lose(book, peer, "lease expired", Loss.LEFT if peer.draining else Loss.SILENT)
    book.silent.pop(peer.pod_name, None)
    if computed and not peer.draining:
        book.silent[peer.pod_name] = Silent(peer.process, computed)
        while len(book.silent) > book.policy.max_fenced:
            del book.silent[next(iter(book.silent))]


def stall(book: Book[R], incarnation: str, task_id: str) -> None:
    """A task was told to stop, and did not in time: what waits behind it is better done elsewhere (I13)."""
    peer = book.peers.get(incarnation)
    if peer is None or task_id not in peer.tasks:
        return
    peer.stalled.add(task_id)
    book.changed(peer)
    _relieve(book, peer)


def _relieve(book: Book[R], peer: Peer[R]) -> None:
    for task in peer.tasks.values() if peer.stalled else ():
        if not (task.started or task.abandoned or task.revoked):
            book.ask_back(task)


def lose(book: Book[R], peer: Peer[R], reason: str, loss: Loss) -> None:
    """Fences an incarnation; what it ran is tried elsewhere, what it kept is made anew where it is still needed."""
    del book.peers[peer.incarnation]
    book.changed(peer)
    book.fenced[peer.incarnation] = book.now
    while len(book.fenced) > book.policy.max_fenced:
        del book.fenced[next(iter(book.fenced))]
    book.emit(PeerLost(peer.incarnation, reason))
    book.reuse.evictions[Eviction.GONE] += len(peer.cached)
    for output in peer.outputs.values():
        output.lost = True
        sharing.forget(book, output)
    for copy in list(peer.copies.values()):
        book.disown_copy(peer, copy.id)
        tasks.not_copied(book, copy, until=book.now + book.policy.grace)
    for task in peer.tasks.values():
        book.stop(task)
        tasks.lose(book, peer, task, loss)
    for output in peer.outputs.values():
        book.drop(output)
        jobs.input_gone(book, output)
        checkpoints.lost(book, output)


def _apart(maker: PeerRegistered[R] | Peer[R], reader: PeerRegistered[R] | Peer[R]) -> str:
    """Why what one makes does not reach the other, or why two of a kind differ; else nothing."""
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    if maker.stages == reader.stages:
        ours, theirs = ((peer.mode, peer.pulls or peer.mode) for peer in (reader, maker))
    elif any(stage + 1 in reader.stages for stage in maker.stages):
        ours, theirs = (reader.pulls or reader.mode,), (maker.mode,)
    else:
        return ""
    if ours == theirs:
        return ""
    by, other = (" and ".join(dict.fromkeys(modes)) for modes in (ours, theirs))
    return (
        f"{reader.pod_name} moves tensors by {by}, but {maker.pod_name} of the same generation by {other}: give both "
        "the same devices, or set transport.protocol (or that of their edge) to one of the two"
    )


def _incompatibility(book: Book[R], event: PeerRegistered[R]) -> str:
    if not event.stages:
        return f"{event.pod_name} registers without a role: start it with --role encoder, denoiser or decoder"
    if event.capacity < 1:
        return f"{event.pod_name} registers with capacity {event.capacity}: it must run at least one task at once"
    most = book.policy.max_capacity
    if event.capacity > most or event.slots > 64 * most:
        return (
            f"{event.pod_name} registers with capacity {event.capacity} and {event.slots} slots: no worker runs more "
            f"than {most} tasks at once, or needs more than {64 * most} slots"
        )
    if event.slots < slots_needed(event.stages):
        return (
            f"{event.pod_name} has a pool of {event.slots} slots, but its roles need {slots_needed(event.stages)}, for "
            "an input and an output at once: raise transport.poolSize"
        )
    for other in book.peers.values():
        if other.incarnation == event.incarnation or other.generation != event.generation:
            continue
        if event.pod_name and other.pod_name == event.pod_name:
            continue
        if apart := _apart(other, event) or _apart(event, other):
            return apart
        if other.ip != event.ip:
            return (
                f"{event.pod_name} moves tensors by {event.mode} over {event.ip}, but {other.pod_name} of the same "
                f"generation over {other.ip}, and Mooncake speaks one of them alone: give all nodes the same order of "
                "addresses (the kubelet's --node-ip), or choose transport.backend: tcp"
            )
        if other.model != event.model:
            return (
                f"{event.pod_name} has model files {event.model}, but {other.pod_name} of the same generation has "
                f"{other.model}: pin model.revision"
            )
    return ""


def _forget_what_is_gone(book: Book[R], peer: Peer[R], event: PeerRegistered[R]) -> None:
    held = {task.task_id: task for task in event.tasks}
    results = {result.task_id: result for result in event.outputs}
    for task in list(peer.tasks.values()):
        if task.checkpoint_id in results:
            tasks.finish(book, peer, results[task.checkpoint_id])
        # Or it may not have arrived.
        checkpoints.not_asked(book, peer, task)
        if task.id in held:
            if held[task.id].started:
                book.begin(peer, task)
            # What was asked of it may not have arrived.
            book.not_asked_back(task)
            if task.parking:
                book.not_parking(task)
            if task.abandoned:
                book.cancel(task)
        elif task.id in results:
            tasks.finish(book, peer, results[task.id])
        else:
            book.disown(peer, task.id)
            outputs.stop_reading(book, task)
            job = tasks.take_back(book, task)
            if job is not None:
                jobs.enqueue(book, job)
    for copy in [copy for copy in peer.copies.values() if copy.id not in held]:
        if copy.id in results:
            tasks.finish(book, peer, results[copy.id])
        else:
            book.disown_copy(peer, copy.id)
            tasks.not_copied(book, copy)
    for output in [output for output in peer.outputs.values() if output.task_id not in results]:
        book.drop(output)
        jobs.input_gone(book, output)


def _adopt_task(book: Book[R], peer: Peer[R], held: HeldTask) -> None:
    """A task of an earlier life of the router goes on, unless its job is over or further on."""
    job = book.jobs.get(held.job_id)
    stage = held.stage
    task: Task[R] = Task(
        id=held.task_id,
        job_id=held.job_id,
        stage=stage,
        incarnation=peer.incarnation,
        attempt=1 if job is None else tasks.next_attempt(job, stage),
        input=None,
        sent_at=book.now,
        # Its input may have been pulled.
        slots=int(stage is not Stage.ENCODE) + int(stage is not Stage.DECODE),
        started=held.started,
        ends_soon=stage is not Stage.DENOISE,
        input_id=held.input_id,
        batch=job.company if job is not None else "",
    )
    book.own(peer, task)
    outputs.adopt_reader(book, task)
    if job is None or not _leads(job, stage, held.started):
        book.cancel(task)
        return
    jobs.abandon(book, job)
    for output in list(job.outputs.values()):
        if output.feeds is not stage:
            outputs.discard(book, output, job.id)
    book.move(job, HELD[stage], task=task)
    task.input = job.input
    jobs.record(job, StageRecord(stage, peer.pod_name, task.attempt, 0.0))
    if task.input is None and task.input_id and task.reads:
        _find_input(book, job, task, task.reads[0])


def _leads(job: Job[R], stage: Stage, started: bool) -> bool:
    """Whether a task of this stage brings its job further than what is under way."""
    if job.status.ended or stage < job.stage:
        return False
    current = job.task
    return stage > job.stage or current is None or (started and not current.started)


def _adopt_output(book: Book[R], peer: Peer[R], result: StageResult[R]) -> None:
    job = book.jobs.get(result.job_id)
    output = outputs.adopt(book, peer, result)
    for reader in outputs.adopted_readers(book, output):
        other = book.jobs.get(reader.job_id)
        if other is not None and other is not job and other.task is reader and reader.input is None:
            _find_input(book, other, reader, output)
    if job is None:
        outputs.discard(book, output, result.job_id)
        return
    if job.status.ended:
        jobs.share(book, job, output)
        return
    task = job.task
    may_read = task is not None and task.stage is output.feeds and task.input_id in ("", result.task_id)
    if task is not None and may_read and task.input is None:
        _find_input(book, job, task, output)
    elif output.parked is not None and task is not None and task.started and task.stage is output.stage:
        # What computes has come further, or will have when the other one could.
        if output.incarnation == task.incarnation:
            outputs.discard(book, output, job.id)
    elif not _is_further(job, output):
        jobs.share(book, job, output)
    else:
        jobs.abandon(book, job)
        attempt = tasks.next_attempt(job, result.stage)
        jobs.record(job, StageRecord(result.stage, peer.pod_name, attempt, 0.0, result.report))
        jobs.advance(book, job, output)


def _is_further(job: Job[R], output: Output[R]) -> bool:
    """Whether the job comes further with it than it has come."""
    if output.parked is None:
        return output.stage >= job.stage
    return job.stage < output.stage or (job.stage is output.stage and job.step < output.parked.step)


def _find_input(book: Book[R], job: Job[R], task: Task[R], output: Output[R]) -> None:
    outputs.want(book, job, output)
    book.move(job, Move.INPUT_FOUND, source=output)
    task.input = output
    jobs.count_steps(job, output)
    if all(entry.report is not output.report for entry in job.records):
        made_by, shared = book.peers[output.incarnation].pod_name, output.job_id != job.id
        attempt = 0 if shared else tasks.next_attempt(job, output.stage)
        # The last one is the task's own.
        job.records.insert(-1, StageRecord(output.stage, made_by, attempt, 0.0, output.report, shared=shared))
