"""One generation takes over from another: by shares of new jobs, never mixed, and at the cost of no job."""

from __future__ import annotations

from collections import Counter

import pytest

from diffusion_router.core import Execute, FailureKind, JobStatus, SharesSet, Stage
from diffusion_router.core.shares import Shares
from unit.core.workers import Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


def two(world: World, **settings: object) -> tuple[Worker, Worker]:
    """A worker of all roles in each generation."""
    return world.spawn(generation="old", **settings), world.spawn(generation="new", **settings)


def begun(world: World) -> dict[str, str]:
    """In which generation each job was encoded last."""
    places = {worker.incarnation: worker.generation for worker in world.workers}
    return {action.job_id: places[action.incarnation] for action in world.said(Execute) if action.stage is ENCODE}


def shares(world: World, old: int) -> None:
    world.tell(SharesSet({"old": old, "new": 100 - old}))


@pytest.mark.parametrize("percent", [0, 5, 20, 50, 100])
def test_so_many_of_the_jobs_as_was_said(percent: int) -> None:
    found = Shares()
    found.set({"new": percent, "old": 100 - percent})
    drawn = Counter(found.of(f"job-{number}") for number in range(10_000))
    assert drawn["new"] / 100 == pytest.approx(percent, abs=1.5)


def test_who_begins_in_the_new_one_still_does_when_its_share_grows() -> None:
    few, more = Shares(), Shares()
    few.set({"new": 20, "old": 80})
    more.set({"new": 40, "old": 60})
    jobs = [f"job-{number}" for number in range(1000)]
    assert {job for job in jobs if few.of(job) == "new"} < {job for job in jobs if more.of(job) == "new"}


@pytest.mark.parametrize("percent", [{"a": 50}, {"a": 120, "b": -20}, {"a": 60, "b": 60}])
def test_shares_are_of_a_hundred(percent: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="100 in all"):
        Shares().set(percent)


def test_a_job_waits_for_its_own_generation_though_another_is_idle() -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=0)
    jobs = [world.submit() for _ in range(6)]
    world.run()
    assert begun(world) == dict.fromkeys(jobs, "new")
    assert all(world.store[job].status is JobStatus.COMPLETED for job in jobs)
    world.check_at_rest()


def test_jobs_that_wait_follow_the_shares() -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=100)
    jobs = [world.submit(conditioning="a") for _ in range(3)] + [world.submit() for _ in range(9)]
    waiting = [job for job in jobs if job not in begun(world)]
    assert len(waiting) > 5
    shares(world, old=0)
    world.run()
    assert {begun(world)[job] for job in waiting if job in begun(world)} == {"new"}
    assert all(world.store[job].status is JobStatus.COMPLETED for job in jobs)
    world.check_at_rest()


def test_a_generation_that_lacks_a_role_gets_no_job_and_those_that_wait_for_it_begin_elsewhere() -> None:
    world = World()
    old = world.spawn(generation="old", slots=64)
    world.spawn(ENCODE, generation="new")
    shares(world, old=0)
    first = world.submit()
    world.run()
    assert begun(world)[first] == "old"
    world.spawn(DENOISE, generation="new")
    decoder = world.spawn(DECODE, generation="new")
    jobs = [world.submit() for _ in range(8)]
    waiting = [job for job in jobs if job not in begun(world)]
    assert "old" not in {begun(world)[job] for job in jobs if job in begun(world)}
    decoder.drain()
    world.run()
    assert {begun(world)[job] for job in waiting} == {"old"}
    assert old.computed
    world.check_at_rest()


def test_without_shares_again_any_idle_worker_is_right() -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=0)
    world.tell(SharesSet({}))
    for _ in range(6):
        world.submit()
    world.run()
    assert set(begun(world).values()) == {"old", "new"}


def test_the_same_prompt_is_encoded_once_in_each_generation() -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=50)
    jobs = [world.submit(conditioning="a") for _ in range(12)]
    world.run()
    assert sorted(begun(world).values()) == ["new", "old"]
    made = Counter(action.incarnation for action in world.said(Execute) if action.stage is DECODE)
    assert sum(made.values()) == len(jobs)
    assert len(made) == 2
    world.check_at_rest()


def fail_all(world: World, generation: str, stage: Stage, kind: FailureKind) -> int:
    """Tasks of this stage fail in this generation, until all jobs have ended; how many did."""
    failed = 0
    for _ in range(200):
        for worker in world.workers:
            for held in list(worker.tasks.values()):
                if worker.generation == generation and held.execute.stage is stage:
                    worker.end_task(held, kind)
                    failed += 1
        world.deliver_all()
        world.run_round()
        world.advance(0.1)
        while world.to_record:
            world.record_one()
        if all(job.status is not None for job in world.store.values()):
            return failed
    raise AssertionError("jobs do not end")


@pytest.mark.parametrize("kind", [FailureKind.MODEL_ERROR, FailureKind.INVALID_REQUEST, FailureKind.INCOMPATIBLE])
@pytest.mark.parametrize("stage", Stage)
def test_what_fails_in_one_generation_begins_in_the_other_and_is_not_lost(stage: Stage, kind: FailureKind) -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=50)
    jobs = [world.submit(conditioning=("", "a")[number % 2]) for number in range(12)]
    assert fail_all(world, "new", stage, kind) > 0
    assert {world.store[job].status for job in jobs} == {JobStatus.COMPLETED}
    tallies = world.core.tallies.by_generation
    assert tallies["new"].failed > 0
    assert tallies["old"].failed == 0
    assert tallies["old"].done > 0
    world.check_at_rest()


def test_what_fails_where_it_began_for_want_of_its_own_goes_on_there_once_it_is_complete() -> None:
    world = World()
    world.spawn(generation="old", slots=64)
    world.spawn(ENCODE, generation="new")
    shares(world, old=0)
    job = world.submit()
    world.deliver_all()
    assert begun(world)[job] == "old"
    world.spawn(DENOISE, DECODE, generation="new")
    assert fail_all(world, "old", Stage.ENCODE, FailureKind.MODEL_ERROR) == 1
    assert world.store[job].status is JobStatus.COMPLETED
    assert begun(world)[job] == "new"
    world.check_at_rest()


def test_what_fails_in_both_fails() -> None:
    world = World()
    old, new = two(world, slots=64)
    shares(world, old=50)
    job = world.submit()
    for _ in range(20):
        for worker in (old, new):
            for held in list(worker.tasks.values()):
                worker.end_task(held, FailureKind.MODEL_ERROR)
        world.deliver_all()
        world.advance(3)
        while world.to_record:
            world.record_one()
    assert (world.store[job].status, world.store[job].kind) == (JobStatus.FAILED, FailureKind.MODEL_ERROR)


def test_without_shares_what_fails_twice_fails_as_ever() -> None:
    world = World()
    two(world, slots=64)
    job = world.submit()
    for _ in range(20):
        for worker in world.workers:
            for held in list(worker.tasks.values()):
                worker.end_task(held, FailureKind.MODEL_ERROR)
        world.deliver_all()
        world.advance(3)
        while world.to_record:
            world.record_one()
    assert world.store[job].status is JobStatus.FAILED


def test_a_generation_that_comes_on_trial_begins_with_a_clean_tally() -> None:
    world = World()
    two(world, slots=64)
    shares(world, old=50)
    for _ in range(6):
        world.submit()
    world.run()
    done = world.core.tallies.by_generation
    assert done["new"].done and done["old"].done
    shares(world, old=20)
    assert world.core.tallies.by_generation["new"].done
    world.tell(SharesSet({"old": 100}))
    shares(world, old=80)
    assert "new" not in world.core.tallies.by_generation
    assert world.core.tallies.by_generation["old"].done
