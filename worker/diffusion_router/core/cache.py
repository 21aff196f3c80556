"""Encoder outputs that outlive their readers, for jobs to come that encode the same (I17).

An output that no job needs and no task may be reading stays in its encoder's pool, within a share of that pool that the
encoder itself names; beyond it the one longest unused goes. What is kept so is in nobody's way: it counts as free room
(`Peer.free_slots`), and goes before a task is sent that needs the room. One that is to leave keeps it for a moment, in
which others may take it over (`leaving`): encoders, or denoisers where there is no other encoder with room. So a
pipeline without an encoder serves who encodes the same as others did.

A router that was restarted keeps none of the last one's: workers tell whose job an output was made for, not what others
would encode the same, so what no unfinished job needs is released when they register.
"""

from __future__ import annotations

from diffusion_router.core.actions import ReleaseSlot
from diffusion_router.core.book import Book
from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import needs
from diffusion_router.core.peer import Peer
from diffusion_router.core.reuse import Eviction
from diffusion_router.core.state import Job, Output


def keep(book: Book[R], output: Output[R]) -> bool:
    """Nobody needs it. False: it is of no use to jobs to come, or its encoder keeps nothing for them."""
    peer = book.peers.get(output.incarnation)
    encoding = book.encodings.get(output.conditioning)
    if peer is None or encoding is None or encoding.output is not output:
        return False
    if peer.draining:
        if peer.keeps_until <= book.now:
            return False
        # Others may take it over.
        book.to_relieve[peer.incarnation] = None
    if output.task_id not in peer.cached:
        if output.nbytes > peer.cacheable_bytes or not peer.cacheable_slots:
            return False
        book.cache(peer, output)
        fit(book, peer)
    return True


def fit(book: Book[R], peer: Peer[R]) -> None:
    """To be called when more is kept in its pool, or more room is needed there, or the pool proves smaller."""
    while peer.cached and peer.overdrawn:
        _evict_oldest(book, peer, Eviction.ROOM)
    while len(peer.cached) > peer.cacheable_slots or peer.cached_bytes > peer.cacheable_bytes:
        _evict_oldest(book, peer, Eviction.SHARE)


def clear(book: Book[R], peer: Peer[R], why: Eviction) -> bool:
    """Whether there was anything."""
    cleared = bool(peer.cached)
    while peer.cached:
        _evict_oldest(book, peer, why)
    return cleared


def clear_generations(book: Book[R]) -> None:
    """The shares of generations are others: what no job looks for any more goes."""
    wanted = {generation for generation, percent in book.shares.percent.items() if percent} or {""}
    for peer in book.peers.values():
        for output in list(peer.cached.values()):
            if output.begins_in not in wanted:
                evict(book, output, Eviction.ELSEWHERE)


def look_up(book: Book[R], job: Job[R]) -> Output[R] | None:
    """What was made for others that encode the same as this job, if it can go on with that."""
    encoding = book.encodings.get(job.conditioning)
    output = encoding.output if encoding is not None else None
    if output is not None and (why := _unfit(book, output, job)) is not None:
        evict(book, output, why)
        return None
    return output


def _unfit(book: Book[R], output: Output[R], job: Job[R]) -> Eviction | None:
    """Why this job had better encode anew than begin to use what nobody uses now."""
    peer = book.peers[output.incarnation]
    if output.task_id not in peer.cached:
        return None
    if not peer.connected:
        return Eviction.GONE
    if book.generations.is_stranded(output.generation, Stage.DENOISE, needs(job)):
        return Eviction.ELSEWHERE
    # It takes a slot from now on, as what is encoded anew does, and leaves as many for what comes after it.
    encodes = Stage.ENCODE in peer.stages
    if peer.free_slots < (peer.needs[Stage.ENCODE] if encodes else peer.spared + 1):
        return Eviction.ROOM
    # A worker that has both roles is where jobs go on that have their input there.
    busy = encodes and Stage.DENOISE in peer.stages and len(peer.tasks) >= peer.capacity
    return Eviction.ELSEWHERE if busy and book.scheduler.has_idle(Stage.ENCODE, output.generation) else None


def _evict_oldest(book: Book[R], peer: Peer[R], why: Eviction) -> None:
    evict(book, next(iter(peer.cached.values())), why)


def evict(book: Book[R], output: Output[R], why: Eviction) -> None:
    book.drop(output)
    book.reuse.evictions[why] += 1
    book.emit(ReleaseSlot(output.incarnation, output.task_id))
