"""Jobs that encode the same: one leads and encodes, the others follow and go on with what it made (I17).

An encoder's output depends on nothing but the fields of the request that encoding reads, and a job's `conditioning` is
the hash of these. So of jobs that wait to encode the same one is given to an encoder; the others are not even in the
scheduler's lanes. Whoever leads and goes without an output, cancelled or failed, leaves the lead to the next, and each
job fails or is tried again by its own rules. What was made may stay for those who come later (`cache`).
"""

from __future__ import annotations

from diffusion_router.core import cache
from diffusion_router.core.book import Book
from diffusion_router.core.events import R, Stage
from diffusion_router.core.reuse import Lookup
from diffusion_router.core.state import Encoding, Job, Output


def join(book: Book[R], job: Job[R]) -> Output[R] | None:
    """A job is to encode. What it can go on with instead; None: it leads, or it follows."""
    made = cache.look_up(book, job)
    if made is not None:
        book.reuse.lookups[Lookup.HIT] += 1
        return made
    encoding = book.encodings.setdefault(job.conditioning, Encoding())
    if encoding.leader is None:
        encoding.followers.pop(job.id, None)
        encoding.leader = job
        book.reuse.lookups[Lookup.MISS] += 1
    elif encoding.leader is not job and job.id not in encoding.followers:
        encoding.followers[job.id] = job
        book.reuse.lookups[Lookup.WAIT] += 1
    job.follows = encoding.leader is not job
    return None


def made(book: Book[R], job: Job[R], output: Output[R]) -> list[Job[R]]:
    """The job has this output. Who else waited for it."""
    if output.stage is not Stage.ENCODE or not job.conditioning:
        return []
    encoding = book.encodings.setdefault(job.conditioning, Encoding())
    encoding.output = encoding.output or output
    encoding.followers.pop(job.id, None)
    followers, encoding.followers = list(encoding.followers.values()), {}
    for follower in followers:
        follower.follows = False
    return followers


def forget(book: Book[R], output: Output[R]) -> None:
    """Nobody else is to go on with it: it is lost, or turned out to be of no use."""
    encoding = book.encodings.get(output.conditioning)
    if encoding is not None and encoding.output is output:
        encoding.output = None
        book.forget_if_empty(output.conditioning, encoding)


def replace(book: Book[R], output: Output[R], copy: Output[R]) -> None:
    """Who comes later goes on with the copy."""
    encoding = book.encodings.get(output.conditioning)
    if encoding is not None and encoding.output is output:
        encoding.output = copy


def next_leaders(book: Book[R]) -> list[Job[R]]:
    """The first of those who follow nobody any more."""
    leaders = []
    while book.leaderless:
        encoding = book.encodings.get(book.leaderless.pop())
        if encoding is not None and encoding.leader is None and encoding.followers:
            leaders.append(next(iter(encoding.followers.values())))
    return leaders
