"""Who gets what, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest

from diffusion_router.core import CancelTask, Execute, FailureKind, JobStatus, Stage
from unit.core.workers import Phase, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


def executes(world: World, stage: Stage | None = None) -> list[Execute]:
    return [action for action in world.said(Execute) if stage in (None, action.stage)]


def split(world: World, denoisers: int = 1, slots: int = 8) -> tuple[Worker, list[Worker], Worker]:
    encoder = world.spawn(ENCODE, slots=slots)
    return encoder, [world.spawn(DENOISE, slots=slots) for _ in range(denoisers)], world.spawn(DECODE, slots=slots)


def test_a_job_goes_through_its_three_stages_and_leaves_nothing_behind() -> None:
    world = World()
    split(world)
    job = world.submit()
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert [action.stage for action in executes(world)] == [ENCODE, DENOISE, DECODE]


def test_the_oldest_job_is_first() -> None:
    world = World()
    jobs = [world.submit() for _ in range(5)]
    world.spawn(ENCODE, slots=64)
    for _ in range(30):
        world.run_round()
    assert [action.job_id for action in executes(world)] == jobs


def test_a_later_stage_comes_before_an_earlier_one() -> None:
    world = World()
    first, second, third = world.submit(), world.submit(), world.submit()
    worker = world.spawn()
    world.work_until(worker, Phase.RUNNING)
    assert [(action.job_id, action.stage) for action in executes(world)] == [(first, ENCODE), (second, ENCODE)]
    world.work(worker)
    world.deliver_all()
    assert executes(world)[-1].job_id == first, f"{third} is begun before {first} goes on"
    assert executes(world)[-1].stage is DENOISE


def test_an_older_job_that_is_ready_later_overtakes_those_that_wait() -> None:
    world = World()
    older, younger = world.submit(), world.submit()
    encoders = [world.spawn(ENCODE), world.spawn(ENCODE)]
    while not encoders[1].outputs:
        world.work(encoders[1])
        world.deliver_all()
    while not encoders[0].outputs:
        world.work(encoders[0])
        world.deliver_all()
    world.spawn(DENOISE)
    assert [action.job_id for action in executes(world, DENOISE)] == [older, younger]


def test_two_denoisers_share_the_work() -> None:
    world = World()
    _, denoisers, _ = split(world, denoisers=2)
    for _ in range(8):
        world.submit()
    world.run()
    world.check_at_rest()
    shares = [sum(denoiser.computed.values()) for denoiser in denoisers]
    assert sum(shares) == 8
    assert min(shares) >= 3


def test_a_busy_denoiser_prefetches_the_next_input() -> None:
    world = World()
    encoder, (denoiser,), _ = split(world)
    world.submit()
    world.submit()
    while len(denoiser.tasks) < 2:
        world.work(encoder)
        world.deliver_all()
    world.work_until(denoiser, Phase.RUNNING)
    world.work(denoiser, 1)
    world.deliver_all()
    phases = [held.phase for held in denoiser.tasks.values()]
    assert phases == [Phase.RUNNING, Phase.WAITING], "the second input is here, and its task waits its turn"


def test_a_prefetched_task_moves_to_a_peer_that_is_idle() -> None:
    world = World()
    encoder, (busy,), _ = split(world)
    world.submit()
    second = world.submit()
    while len(busy.tasks) < 2:
        world.work(encoder)
        world.deliver_all()
    world.work_until(busy, Phase.RUNNING)
    idle = world.spawn(DENOISE)
    world.deliver_all()
    assert [held.execute.job_id for held in idle.tasks.values()] == [second]
    assert len(busy.tasks) == 1
    assert world.computed[second, ENCODE] == 1, "its input is pulled once more, not made once more"


def test_one_idle_peer_calls_back_one_task_only() -> None:
    world = World()
    for _ in range(3):
        world.spawn(ENCODE)
    for _ in range(6):
        world.submit()
    for worker in world.workers:
        world.work(worker)
    world.deliver_all()
    idle = world.spawn(ENCODE, attach=False)
    idle.attach()
    world.deliver_up(idle)
    for _ in range(5):
        world.advance(0.1)
    assert sum(action.only_if_waiting for action in world.said(CancelTask)) == 1


def test_a_task_is_not_called_back_for_a_peer_that_must_not_run_it() -> None:
    world = World()
    bad, good = world.spawn(ENCODE), world.spawn(ENCODE)
    for _ in range(2):
        world.submit()
    world.work_until(bad, Phase.RUNNING)
    world.fail_task(bad, 0, FailureKind.MODEL_ERROR)
    world.deliver_all()
    world.work_until(good, Phase.RUNNING)
    world.advance(1.0)
    world.deliver_all()
    assert len(good.tasks) == 2
    for _ in range(5):
        world.advance(0.5)
        world.deliver_all()
    assert not [action for action in world.said(CancelTask) if action.only_if_waiting]


def test_a_job_that_must_avoid_a_peer_does_not_hold_back_the_others() -> None:
    world = World()
    first = world.submit()
    bad = world.spawn(ENCODE)
    world.work_until(bad, Phase.RUNNING)
    good = world.spawn(ENCODE)
    world.submit()
    world.submit()
    world.work_until(good, Phase.RUNNING)
    world.fail_task(bad, 0, FailureKind.MODEL_ERROR)
    for _ in range(4):
        world.submit()
        world.advance(0.4)
    world.deliver_all()
    assert bad.tasks, f"only {first} waits for the other encoder"
    assert first not in {held.execute.job_id for held in bad.tasks.values()}


def test_colocated_peers_keep_the_job_and_nothing_is_transferred() -> None:
    world = World()
    world.spawn(slots=4)
    world.spawn(slots=4)
    for _ in range(8):
        world.submit()
    world.run()
    world.check_at_rest()
    by_job: dict[str, set[str]] = {}
    for action in executes(world):
        by_job.setdefault(action.job_id, set()).add(action.incarnation)
    assert all(len(peers) == 1 for peers in by_job.values())
    assert {peer for peers in by_job.values() for peer in peers} == {worker.incarnation for worker in world.workers}


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize(
    "fleet",
    [
        [(ENCODE, DENOISE, DECODE)],
        [(ENCODE, DENOISE), (DECODE,)],
        [(ENCODE, DECODE), (DENOISE,)],
        [(ENCODE,), (DENOISE, DECODE)],
        [(ENCODE, DECODE), (ENCODE, DECODE), (DENOISE,), (DENOISE,)],
    ],
    ids=str,
)
def test_small_pools_cannot_deadlock(fleet: list[tuple[Stage, ...]], slots: int) -> None:
    world = World()
    for roles in fleet:
        world.spawn(*roles, slots=slots, capacity=2)
    for _ in range(12):
        world.submit()
    world.run(rounds=300)
    world.check_at_rest()


@pytest.mark.parametrize("roles", [tuple(Stage), (ENCODE, DENOISE), (ENCODE, DECODE)], ids=str)
def test_a_pool_that_holds_fewer_outputs_than_it_says_cannot_deadlock(roles: tuple[Stage, ...]) -> None:
    world = World()
    world.spawn(*roles, slots=16, real_slots=2, capacity=2)
    for stage in Stage:
        if stage not in roles:
            world.spawn(stage, slots=16, real_slots=2)
    for _ in range(12):
        world.submit()
    world.run(rounds=1500)
    world.check_at_rest()


def test_a_peer_whose_pool_is_full_is_asked_again_later_and_later() -> None:
    world = World()
    world.spawn(ENCODE, slots=4, real_slots=0)
    world.submit()
    times = []
    for _ in range(200):
        count = len(executes(world))
        world.run_round()
        world.advance(0.1)
        if len(executes(world)) > count:
            times.append(world.now)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert len(times) < 20
    assert gaps[-1] >= world.policy.max_backoff > gaps[0]
    assert world.store["j1"].status is None, "a full pool fails no job"


def test_a_job_that_waits_for_the_peer_with_its_input_goes_elsewhere_once_that_takes_no_tasks() -> None:
    world = World()
    encoder = world.spawn(ENCODE)
    older = world.submit()
    both = world.spawn(ENCODE, DENOISE, capacity=2)
    younger = world.submit()
    for _ in range(3):
        world.submit()
    world.deliver_all()
    for index in range(2):
        world.work(both, index)
    for worker in (encoder, encoder, encoder, both):
        world.work(worker)
        world.deliver_all()
    job = world.core.jobs[younger]
    assert world.core.jobs[older].task.incarnation == job.input.incarnation == both.incarnation
    assert job.task is None
    both.drain()
    world.deliver_up(both)
    assert job.task is None, "there is nobody else"
    other = world.spawn(DENOISE)
    assert job.task.incarnation == other.incarnation
