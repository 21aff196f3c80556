"""Checks of who waits: nobody starves, and no peer is idle."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

from diffusion_router.core import Core, Stage
from dpipe.simulate.held import Kept

# Jobs that wait looked at after one event, of those that a peer is idle for.
_LOOKS: Final = 8


@dataclass(slots=True)
class Open:
    """A job that has not ended."""

    seq: int
    late_at: float
    deadline: float
    task: str = ""
    waits_for: Stage | None = Stage.ENCODE
    kills: int = 0
    deaths: int = 0
    failures: int = 0
    cancelled: bool = False
    decoded: bool = False


class Order:
    """Who waits for which stage, and how many idle peers could begin a task of it at once.

    jobs: those that have not ended. passes: as in Checks. violated: to be called with a rule and what breaks it.
    """

    def __init__(
        self,
        core: Core[Kept],
        jobs: Mapping[str, Open],
        passes: int,
        violated: Callable[[str, str], NoReturn],
    ) -> None:
        self.core = core
        self.idle = dict.fromkeys(Stage, 0)
        self.moved = False
        """Jobs wait otherwise than when they were last looked at."""
        self._jobs = jobs
        self._passes = passes
        self._violated = violated
        self._waiting: dict[Stage, dict[str, None]] = {stage: {} for stage in Stage}
        self._oldest: dict[Stage, list[tuple[int, str]]] = {stage: [] for stage in Stage}
        self._passed: dict[Stage, tuple[str, int]] = {}

    def begin_life(self, core: Core[Kept]) -> None:
        """Of a router that knows nothing yet."""
        self.core = core
        self.idle = dict.fromkeys(Stage, 0)
        for stage in Stage:
            self._waiting[stage].clear()
            self._oldest[stage].clear()

    def waits(self, job_id: str, job: Open, stage: Stage) -> None:
        if job.waits_for is not None:
            self._waiting[job.waits_for].pop(job_id, None)
        job.task, job.waits_for = "", stage
        self.moved = True
        self._waiting[stage][job_id] = None
        heapq.heappush(self._oldest[stage], (job.seq, job_id))

    def starts(self, job_id: str, job: Open) -> None:
        if job.waits_for is not None:
            self._waiting[job.waits_for].pop(job_id, None)
            job.waits_for = None

    def started(self, stage: Stage, started: Open, *, passes: bool, joins: bool) -> None:
        """Nobody starves: who is the oldest and late is passed over so often at most. passes: whether this start may
        pass anybody over. joins: it shares forwards with what is computed there, which passes over only one who has
        waited for an idle peer for as long as he takes himself."""
        oldest, waiting = self._oldest[stage], self._waiting[stage]
        while oldest and oldest[0][1] not in waiting:
            heapq.heappop(oldest)
        if not oldest or oldest[0][0] > started.seq:
            self._passed.pop(stage, None)
            return
        job_id = oldest[0][1]
        if not passes or self._jobs[job_id].late_at > self.core.now or not self._could_start(job_id, stage):
            return
        if joins and self.core.now - self.core.jobs[job_id].ready_since <= self._takes(job_id):
            return
        name, passed = self._passed.get(stage, ("", 0))
        passed = passed + 1 if name == job_id else 1
        self._passed[stage] = (job_id, passed)
        if passed > self._passes:
            self._violated("no starvation", f"{job_id} is late and was passed over {passed} times ({stage.name})")

    def _takes(self, job_id: str) -> float:
        return self.core.estimates.seconds(Stage.DENOISE, self.core.jobs[job_id].shape)

    def _could_start(self, job_id: str, stage: Stage) -> bool:
        """On any peer of the stage."""
        known = self.core.jobs.get(job_id)
        if known is None or not known.ready(stage, self.core.now) or known.avoid or known.adapters:
            return False
        holder = self.core.peers.get(known.input.incarnation) if known.input is not None else None
        return holder is None or stage not in holder.stages

    def find_idle(self) -> None:
        for stage, waiting in self._waiting.items():
            if waiting and self.idle[stage]:
                self._find_idle(stage, waiting)

    def _find_idle(self, stage: Stage, waiting: dict[str, None]) -> None:
        """Work is conserved: no peer is idle while a job waits that it could take."""
        for job_id in list(islice(waiting, _LOOKS)):
            known = self.core.jobs.get(job_id)
            if known is None:
                continue
            if known.stage is not stage:
                self.waits(job_id, self._jobs[job_id], known.stage)
            elif self._could_start(job_id, stage):
                text = f"{job_id} waits, and {self.idle[stage]} peers are idle ({stage.name})"
                self._violated("work conserved", text)
            else:
                # The next time others are looked at.
                del waiting[job_id]
                waiting[job_id] = None
