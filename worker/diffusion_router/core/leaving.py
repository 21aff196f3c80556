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
from collections.abc import Iterator

from diffusion_router.core import cache, checkpoints, copies, outputs
from diffusion_router.core.book import Book
from diffusion_router.core.events import ParkReason, R
from diffusion_router.core.peer import Peer
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Output, Task


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
        if job is not None and parkable and book.generations.has_others(job, [peer.generation]):
            book.park(task, ParkReason.LEAVES)
    for output in list(peer.outputs.values()):
        for task in list(_begun_with(book, output)):
            _let_go(book, task, output)
        kept = output.slots and not output.copied_by and _is_waited_with(book, output)
        if kept and not copies.begin(book, output) and checkpoints.is_spare(book, output):
            # It is there for a loss that may never be: nobody stays for it.
            outputs.discard(book, output, output.job_id)
    _hand_down(book, peer)


def begun(book: Book[R], task: Task[R]) -> None:
    """To be called when a task computes: its worker has its own of what it reads."""
    for output in list(task.reads):
        if output.incarnation in book.leaving and output.incarnation != task.incarnation:
            _let_go(book, task, output)


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


def _hand_down(book: Book[R], peer: Peer[R]) -> None:
    """What it keeps for jobs to come, the one used last first; all that is left once there is no room for one."""
    under_way = sum(bool(output.copied_by and not output.wanted_by) for output in peer.outputs.values())
    while peer.cached and under_way < book.policy.passed_on_at_once:
        output = next(reversed(peer.cached.values()))
        if not copies.begin_for_jobs_to_come(book, output, peer.keeps_until):
            cache.clear(book, peer, Eviction.GONE)
            return
        under_way += 1
