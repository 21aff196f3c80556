"""A peer that was told to leave: what it computes is parked, what it keeps is copied, and nothing is made twice (I12).

Its denoisings are parked as soon as somebody else could go on with them; until then it keeps computing. What it keeps
for a stage that has not begun is copied to another peer of its role, if one has room: a checkpoint to a denoiser,
conditioning to an encoder. What a stage has begun with is let go: that stage's worker has its own. So the peer holds
nothing after one step and one transfer, and goes. Whatever can't be saved so is kept until its grace is over.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_router.core import checkpoints, copies, outputs
from diffusion_router.core.book import Book
from diffusion_router.core.events import R
from diffusion_router.core.state import Output, Peer, Task


def relieve_all(book: Book[R]) -> None:
    """To be called when somebody is there who was not."""
    book.to_relieve.update(dict.fromkeys(book.leaving))


def relieve(book: Book[R], peer: Peer[R]) -> None:
    """To be called when a peer begins to leave, or has something new, and now and then until it has nothing."""
    if peer.draining:
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
            book.park(task)
    for output in list(peer.outputs.values()):
        for task in list(_begun_with(book, output)):
            _let_go(book, task, output)
        kept = output.slots and not output.copied_by and _is_waited_with(book, output)
        if kept and not copies.begin(book, output) and checkpoints.is_spare(book, output):
            # It is there for a loss that may never be: nobody stays for it.
            outputs.discard(book, output, output.job_id)


def begun(book: Book[R], task: Task[R]) -> None:
    """To be called when a task computes: its worker has its own of what it reads."""
    for output in list(task.reads):
        if output.incarnation in book.leaving and output.incarnation != task.incarnation:
            _let_go(book, task, output)


def _begun_with(book: Book[R], output: Output[R]) -> Iterator[Task[R]]:
    """Tasks of other peers that compute with it."""
    for job_id in output.wanted_by:
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
