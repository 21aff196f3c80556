"""Jobs that name a scheduler are denoised where it is offered, and nowhere else."""

from __future__ import annotations

import pytest

from diffusion_router.core import JobStatus, SharesSet, Stage
from unit.core.test_adapters import denoised, having
from unit.core.workers import Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


def spawn_generation(world: World, generation: str, *schedulers: str) -> list[Worker]:
    return [world.spawn(stage, generation=generation, schedulers=frozenset(schedulers)) for stage in Stage]


@pytest.mark.parametrize("share", [None, 0, 100])
def test_a_job_begins_in_the_generation_that_offers_its_scheduler_whatever_the_shares_are(share: int | None) -> None:
    world = World()
    old = spawn_generation(world, "g1", "fast", "gone")
    new = spawn_generation(world, "g2", "fast", "added")
    if share is not None:
        world.tell(SharesSet({"g1": 100 - share, "g2": share}))
    wanted = {world.submit(scheduler=name): worker.pod for name, worker in (("gone", old[1]), ("added", new[1]))}
    for _ in range(4):
        world.submit(scheduler="fast")
    world.run()
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    assert {job_id: pod for job_id, pod in denoised(world).items() if job_id in wanted} == wanted
    world.check_at_rest()


def test_word_of_adapters_takes_none_of_a_workers_schedulers_away() -> None:
    world = World()
    world.spawn(ENCODE)
    denoiser = world.spawn(DENOISE, adapters=having("a"), schedulers=frozenset(["fast"]))
    world.spawn(DECODE)
    denoiser.offer("a", "b")
    world.deliver_all()
    job_id = world.submit(adapters="ab", scheduler="fast")
    world.run()
    assert world.store[job_id].status is JobStatus.COMPLETED
    world.check_at_rest()


def test_a_router_that_starts_anew_knows_which_scheduler_a_job_waits_for() -> None:
    world = World()
    spawn_generation(world, "g1")
    job_id = world.submit(scheduler="fast")
    world.restart_router()
    world.run(rounds=40)
    assert world.store[job_id].status is None
    spawn_generation(world, "g2", "fast")
    world.run()
    assert world.store[job_id].status is JobStatus.COMPLETED


def test_one_that_nobody_offers_waits_until_its_deadline_which_says_so() -> None:
    world = World()
    spawn_generation(world, "g1", "fast")
    alone = world.submit(deadline=20.0, scheduler="slow")
    both = world.submit(deadline=20.0, adapters="ab", scheduler="slow")
    world.run(rounds=60)
    late = "not finished by its deadline (ENCODE): no denoiser offers its "
    assert world.store[alone].message == f"{late}scheduler slow"
    assert world.store[both].message == f"{late}adapters a, b and scheduler slow"
