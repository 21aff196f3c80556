"""Requests come: they become jobs, or are refused, by the router's own rule."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Final

from diffusion_router.core import Core, JobSubmitted, Refused, admit
from dpipe.simulate.errors import InputError
from dpipe.simulate.held import Kept
from dpipe.simulate.jobs import Job
from dpipe.simulate.load import Request
from dpipe.simulate.scenario import Outcome, Scenario

# Of a job without a deadline.
_FAR: Final = 1e15


class Arrivals:
    def __init__(self, scenario: Scenario, outcome: Outcome, rng: random.Random) -> None:
        self._scenario = scenario
        self._outcome = outcome
        self._requests: Iterator[Request] = scenario.load(rng)
        self._number = 0
        self._keys: set[str] = set()

    def next(self) -> Request | None:
        return next(self._requests, None)

    def jobs(self, request: Request, core: Core[Kept], now: float) -> list[Job]:
        """Of this request, one a picture; none if it is refused. All that came before have been told to the core."""
        shape = self._scenario.fleet.shapes.get(request.shape)
        if shape is None:
            known = ", ".join(self._scenario.fleet.shapes)
            raise InputError(f"{self._scenario.name}: shape {request.shape!r} of a request is none of {known}")
        self._number += 1
        key = request.key or (f"of request {self._number}" if request.number > 1 else "")
        factor = self._scenario.target_factor
        jobs = [
            Job(f"j{self._number}-{index}", request, shape, key=key, target_factor=factor)
            for index in range(request.number)
        ]
        try:
            predicted = admit(
                core,
                [job.label for job in jobs],
                entering=0,
                timeout=request.deadline or math.inf,
                accept_late=False,
                max_queued=self._scenario.max_queued,
                now=now,
            )
        except Refused:
            self._outcome.refused[jobs[0].label, request.priority] += len(jobs)
            return []
        if predicted.known:
            # As in the router, what is predicted is the end of the last.
            jobs[-1].predicted = predicted.end
        self._outcome.keys += not key or key not in self._keys
        if request.key:
            self._keys.add(key)
        self._outcome.adapted += len(jobs) * bool(request.adapters)
        return jobs


def submission(job: Job, *, kills: int = 0, restored: bool = False) -> JobSubmitted:
    request = job.request
    return JobSubmitted(
        job.id,
        request.at + request.deadline if request.deadline else _FAR,
        job.label,
        kills=kills,
        restored=restored,
        conditioning=job.key,
        batch=job.batch,
        adapters=request.adapters,
        since=request.at,
        target=job.target,
        priority=request.priority,
        tenant=request.tenant,
    )
