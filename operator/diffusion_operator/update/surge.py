"""How a new generation takes over from the one that serves: beside it, step by step, or not at all.

Its pods come up in the other track of StatefulSets once the router knows that no job is to begin in it yet. When all
are ready and registered, it gets `stepPercent` of the new jobs, and as much again after each pause. Should more of its
tasks fail than of the other's, or should they take longer, it goes; when it has had all new jobs for a pause, it stays
and the other goes. What is begun is finished where it began.

A step is written down, in the resource's status, before the router is told, and what becomes of the generation, in a
revision, before pods are touched. So an operator that is killed anywhere goes on where it was. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from diffusion_operator.api import Surge
from diffusion_operator.update.revision import Refused, Revision, digest

ALL: Final = 100
# Fewer tasks say nothing: of how many fail; of how long they take, since the first of a process are slow.
_FAILED: Final = 3
_ENDED: Final = 20
_TIMED: Final = 10


@dataclass(frozen=True)
class Tally:
    """What the router counted of a generation since it got a share."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    expected_seconds: float = 0.0


@dataclass(frozen=True)
class Seen:
    ready: bool
    """All pods of the new generation are ready and registered."""
    cause: str
    """Why not."""
    shares: Mapping[str, int] | None
    """Percent of new jobs by generation, as the router has it. None: it does not say."""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    """By generation."""


@dataclass(frozen=True)
class Progress:
    digest: str
    """Of the new generation's templates."""
    generation: str
    percent: int
    """Of new jobs."""
    since: datetime


@dataclass(frozen=True)
class Step:
    progress: Progress
    verdict: Literal["go on", "promote", "go back"] = "go on"
    why: str = ""
    again: float | None = None
    """Seconds until time alone makes it another."""


def step(
    surge: Surge, revision: Revision, before: Progress | None, seen: Seen, *, startup_seconds: int, now: datetime
) -> Step:
    """Of a revision that has a candidate. startup_seconds: so long its pods may take to be ready."""
    assert revision.candidate is not None
    name = digest(revision.candidate)
    at = of_this(revision, before) or Progress(name, revision.candidate.generation, 0, now)
    fault = _fault(
        surge, seen.tallies.get(revision.templates.generation, Tally()), seen.tallies.get(at.generation, Tally())
    )
    if fault:
        return Step(at, "go back", fault)
    passed = (now - at.since).total_seconds()
    if not seen.ready:
        allowed = startup_seconds + (surge.pause_seconds if at.percent else 0)
        if passed > allowed:
            return Step(at, "go back", f"not ready after {allowed} s: {seen.cause}")
        return Step(at, why=seen.cause, again=allowed - passed)
    if at.percent == 0:
        return _next(surge, at, now)
    if seen.shares is None or seen.shares.get(at.generation) != at.percent:
        return Step(at, why="the router has not taken the shares yet")
    if passed < surge.pause_seconds:
        return Step(at, again=surge.pause_seconds - passed)
    return Step(at, "promote") if at.percent == ALL else _next(surge, at, now)


def of_this(revision: Revision, progress: Progress | None) -> Progress | None:
    """None: it is that of another candidate."""
    candidate = revision.candidate
    return progress if progress and candidate and progress.digest == digest(candidate) else None


def _next(surge: Surge, at: Progress, now: datetime) -> Step:
    return Step(replace(at, percent=min(ALL, at.percent + surge.step_percent), since=now))


def _fault(surge: Surge, old: Tally, new: Tally) -> str:
    ended = new.done + new.failed
    if new.failed >= _FAILED or (new.failed and ended >= _ENDED):
        usual = _share(old.failed, old.done)
        if _share(new.failed, new.done) > usual + surge.max_failed_percent:
            return f"{new.failed} of {ended} tasks failed, of the other generation {usual:.0f} %"
    if new.done >= _TIMED and new.expected_seconds > 0:
        slower = (new.seconds / new.expected_seconds - 1) * ALL
        if slower > surge.max_slower_percent:
            return f"its tasks took {slower:.0f} % longer than those of the other generation"
    return ""


def _share(failed: int, done: int) -> float:
    return ALL * failed / (failed + done) if failed else 0.0


def promoted(revision: Revision) -> Revision:
    """The new generation stays."""
    assert revision.candidate is not None
    return replace(
        revision,
        number=revision.number + 1,
        templates=revision.candidate,
        track=revision.other_track,
        candidate=None,
        surged=True,
        refused=None,
    )


def gone_back(revision: Revision, why: str) -> Revision:
    """The new generation goes."""
    assert revision.candidate is not None
    return replace(
        revision,
        number=revision.number + 1,
        candidate=None,
        surged=True,
        refused=Refused(digest(revision.candidate), why),
    )


def shares(revision: Revision, progress: Progress | None = None) -> dict[str, int]:
    """Percent of new jobs by generation that the router is to be told; empty: any. progress: as it is written down."""
    served = revision.templates.generation
    if revision.candidate is not None:
        at = of_this(revision, progress)
        percent = at.percent if at is not None else 0
        return {served: ALL - percent, revision.candidate.generation: percent}
    return {served: ALL} if revision.surged else {}
