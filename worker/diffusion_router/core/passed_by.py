"""Who waits for an idle peer while others, later in order, join the batches of busy ones.

That takes nothing from him: what is computed together ends sooner for it, and he could not have joined. But peers that
are filled again and again come to no end, so none is passed by for longer than he would take himself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic

from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import R, Stage
from diffusion_router.core.ordering import First
from diffusion_router.core.state import Job


class PassedBy(Generic[R]):
    """By generation, the first in order who waits so, and the first who has waited too long."""

    def __init__(self, jobs: Mapping[str, Job[R]], estimates: Estimates) -> None:
        self._jobs = jobs
        self._estimates = estimates
        self._first: dict[str, First] = {}
        self.impatient: dict[str, First] = {}
        """Who has waited too long."""

    def look_anew(self, generations: Iterable[str]) -> None:
        """All who wait in these are about to be added again."""
        for generation in generations:
            self._first.pop(generation, None)
            self.impatient.pop(generation, None)

    def add(self, generation: str, first: First, now: float) -> None:
        job = self._jobs[first[1]]
        if not self.is_one_before(generation, first):
            self._first[generation] = first
        if self._has_waited_too_long(job, now) and self.may_be(generation, first):
            self.impatient[generation] = first

    def is_one_before(self, generation: str, first: First) -> bool:
        """Whether one that waits so comes before this one."""
        return _is_before(self._first, generation, first)

    def may_be(self, generation: str, first: First) -> bool:
        """Whether all that come before this one may be passed by."""
        return not _is_before(self.impatient, generation, first)

    def relieved(self, now: float) -> Iterator[str]:
        """Generations in which the one that had waited too long waits no more."""
        for generation, (_, job_id) in list(self.impatient.items()):
            job = self._jobs.get(job_id)
            if job is None or not self._has_waited_too_long(job, now):
                del self.impatient[generation]
                yield generation

    def _has_waited_too_long(self, job: Job[R], now: float) -> bool:
        patience = self._estimates.seconds(Stage.DENOISE, job.shape)
        return job.ready(Stage.DENOISE, now) and now - job.ready_since > patience


def _is_before(some: Mapping[str, First], generation: str, first: First) -> bool:
    return generation in some and some[generation] < first
