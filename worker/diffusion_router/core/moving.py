"""Which denoisings go on faster elsewhere: crowded ones, once a peer denoises nothing and nobody waits for it.

They are parked, and go on where there is more room, as those that give way do (I12).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from diffusion_router.core.batches import Batches
from diffusion_router.core.estimates import Estimates
from diffusion_router.core.events import R
from diffusion_router.core.ordering import Ordering
from diffusion_router.core.places import Places
from diffusion_router.core.state import Job, Task

# What is moved must gain more than that many seconds, and so many times what a pause takes; and it is so often at most.
_GAIN: Final = 1.0
_PAUSES: Final = 4
_MOVES: Final = 4


def moves(
    jobs: Mapping[str, Job[R]], places: Places[R], ordering: Ordering[R], estimates: Estimates, batches: Batches
) -> Iterator[Task[R]]:
    """One of each crowded peer at most, and no more than there are idle ones."""
    for idle, crowded in places.spread():
        for peer in crowded[:idle] if ordering.preempts else ():
            first = peer.denoises[0]
            slowdown = batches.slowdown(peer.generation, first.batch, len(peer.denoises))
            able = {task.id: ordering.left(jobs[task.job_id]) for task in peer.denoises if _can_move(jobs, task)}
            longest = max(able, key=lambda task_id: able[task_id], default="")
            if longest and able[longest] * (slowdown - 1.0) > _GAIN + _PAUSES * estimates.pause:
                yield peer.tasks[longest]


def _can_move(jobs: Mapping[str, Job[R]], task: Task[R]) -> bool:
    job = jobs.get(task.job_id)
    going = task.started and task.resumable and not (task.abandoned or task.ends_soon)
    return going and job is not None and job.task is task and not job.alone and job.parks < _MOVES
