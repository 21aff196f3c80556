"""The order of deadlines: who is next, who gives way to whom, and who does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from diffusion_router.core import Deadline, Execute, ParkTask, Priority, Stage
from unit.core.workers import STEPS, Phase, Worker
from unit.core.world import POLICY, World

ENCODE, DENOISE, DECODE = Stage
SECONDS = {"short": 2.0, "long": 60.0}


def made(**policy: float) -> World:
    """With encoders and decoders that are never waited for."""
    world = World(replace(POLICY, lease=1e6, prefetch=0, scheduling=Deadline(**policy)))
    for shape, seconds in SECONDS.items():
        world.core.estimates.learn(DENOISE, shape, seconds)
        world.core.estimates.learn(ENCODE, shape, 0.0)
        world.core.estimates.learn(DECODE, shape, 0.0)
    # Simulated workers say that all takes a second.
    world.core.estimates.learn = lambda *_: None  # type: ignore[method-assign]
    world.spawn(ENCODE, capacity=99, slots=99), world.spawn(DECODE, capacity=99, slots=99)
    return world


@pytest.fixture
def world() -> World:
    return made()


def denoiser(world: World) -> Worker:
    return world.spawn(DENOISE, resumable=True)


def encoded(world: World, shape: str, **order: object) -> str:
    """A job that waits to be denoised, or is."""
    job = world.submit(shape=shape, **order)
    world.work_until(world.workers[0], Phase.RUNNING)
    world.work(world.workers[0])
    world.deliver_all()
    return job


def denoise(world: World, worker: Worker) -> str:
    """The one that it was given, to its end."""
    (held,) = worker.tasks.values()
    for _ in range(STEPS + 3):
        world.work(worker)
        world.deliver_all()
        if held.execute.task_id not in worker.tasks:
            # Its pool has room for the next.
            decoder = world.workers[1]
            for _ in range(4):
                world.work(decoder)
            world.deliver_all()
            return held.execute.job_id
    raise AssertionError(f"{held} never ended")


def runs(world: World, worker: Worker) -> str:
    """The job that it computes now, or would next."""
    world.work_until(worker, Phase.RUNNING)
    return next(held.execute.job_id for held in worker.tasks.values() if held.phase is Phase.RUNNING)


def parked(world: World) -> list[str]:
    return [action.task_id.split(".")[0] for action in world.said(ParkTask)]


# ---------------------------------------------------------------- order


def test_of_those_on_time_the_one_with_the_earliest_target_is_next(world: World) -> None:
    jobs = {target: encoded(world, "short", target=target) for target in (50.0, 30.0, 40.0)}
    worker = denoiser(world)
    assert [denoise(world, worker) for _ in jobs] == [jobs[30.0], jobs[40.0], jobs[50.0]]


def test_a_request_that_names_no_target_has_some_times_what_it_takes_alone(world: World) -> None:
    long, short = encoded(world, "long"), encoded(world, "short")
    assert (world.core.jobs[long].due, world.core.jobs[short].due) == (180.0, 6.0)


def test_who_can_no_longer_meet_its_target_steps_back_behind_all_who_can(world: World) -> None:
    late = encoded(world, "long", target=59.0)
    on_time = encoded(world, "short", target=500.0)
    worker = denoiser(world)
    assert [denoise(world, worker), denoise(world, worker)] == [on_time, late]


def test_of_late_ones_that_with_the_least_left_to_do_is_next() -> None:
    world = made(late_share=0)
    long, short = encoded(world, "long", target=1.0), encoded(world, "short", target=1.0)
    worker = denoiser(world)
    assert [denoise(world, worker), denoise(world, worker)] == [short, long]


@pytest.mark.parametrize("share", [2, 4])
def test_one_start_in_so_many_is_that_of_the_oldest_late_one(share: int) -> None:
    world = made(late_share=share)
    late = encoded(world, "long", target=1.0)
    for _ in range(6):
        encoded(world, "short", target=1000.0)
    worker = denoiser(world)
    order = [denoise(world, worker) for _ in range(7)]
    assert order.index(late) == share - 1


def test_a_higher_priority_comes_first_whatever_the_targets(world: World) -> None:
    batch = encoded(world, "short", target=3.0, priority=Priority.BATCH)
    standard = encoded(world, "short", target=500.0)
    interactive = encoded(world, "short", target=900.0, priority=Priority.INTERACTIVE)
    worker = denoiser(world)
    assert [denoise(world, worker) for _ in range(3)] == [interactive, standard, batch]


def test_tenants_of_one_priority_get_the_same_work_done(world: World) -> None:
    of = {encoded(world, "long", target=900.0, tenant="few"): "few" for _ in range(2)}
    of |= {encoded(world, "short", target=30.0, tenant="many"): "many" for _ in range(40)}
    worker = denoiser(world)
    work: Counter[str] = Counter()
    for _ in range(25):
        job = denoise(world, worker)
        work[of[job]] += 60 if of[job] == "few" else 2
        assert abs(work["few"] - work["many"]) <= 60


def test_who_comes_back_has_saved_nothing_up(world: World) -> None:
    """A tenant who was away while others worked is not served alone until it has had as much as they."""
    worker = denoiser(world)
    for _ in range(5):
        encoded(world, "long", target=1e5, tenant="a")
        denoise(world, worker)
    world.kill(worker)
    of = {encoded(world, "long", target=1e5, tenant=name): name for name in "ab" * 3}
    worker = denoiser(world)
    order = [of[denoise(world, worker)] for _ in of]
    assert order[0] == "b"
    assert "a" in order[:3], order


# ---------------------------------------------------------------- giving way


def test_a_long_one_that_can_wait_gives_way_at_its_step_and_goes_on_later(world: World) -> None:
    worker = denoiser(world)
    long = encoded(world, "long")
    assert runs(world, worker) == long
    short = encoded(world, "short")
    assert parked(world) == [long]
    world.work(worker)
    world.deliver_all()
    assert runs(world, worker) == short
    assert denoise_all(world, worker) == [short, long]
    assert set(world.steps.values()) == {1}
    assert world.store[long].result


def denoise_all(world: World, worker: Worker) -> list[str]:
    ended = []
    for _ in range(200):
        before = {held.execute.job_id for held in worker.tasks.values()}
        world.work(worker)
        world.deliver_all()
        ended += before - {held.execute.job_id for held in worker.tasks.values()}
    world.run()
    return [job for job in dict.fromkeys(ended) if world.steps[job, STEPS]]


def test_one_that_would_miss_its_own_target_does_not(world: World) -> None:
    worker = denoiser(world)
    long = encoded(world, "long", target=61.0)
    runs(world, worker)
    encoded(world, "short")
    assert parked(world) == []
    assert runs(world, worker) == long


def test_one_that_is_late_already_gives_way_to_any_on_time(world: World) -> None:
    worker = denoiser(world)
    late = encoded(world, "long", target=1.0)
    runs(world, worker)
    encoded(world, "short", target=900.0)
    assert parked(world) == [late]


def test_nobody_gives_way_to_one_that_is_late(world: World) -> None:
    worker = denoiser(world)
    encoded(world, "long")
    runs(world, worker)
    encoded(world, "short", target=1.0)
    assert parked(world) == []


def test_a_lower_priority_gives_way_also_to_one_that_is_late(world: World) -> None:
    worker = denoiser(world)
    batch = encoded(world, "long", target=61.0, priority=Priority.BATCH)
    runs(world, worker)
    encoded(world, "short", target=1.0)
    assert parked(world) == [batch]


@pytest.mark.parametrize(("most", "times"), [(1, 1), (32, 2)])
def test_who_has_given_way_often_enough_does_so_no_more(most: int, times: int) -> None:
    world = made(max_parks=most)
    worker = denoiser(world)
    long = encoded(world, "long", target=1e6)
    for _ in range(2):
        assert runs(world, worker) == long
        short = encoded(world, "short")
        for _ in range(20):
            if not world.steps[short, STEPS] or short in {held.execute.job_id for held in worker.tasks.values()}:
                world.work(worker)
                world.deliver_all()
    assert parked(world) == [long] * times


def test_one_that_cant_be_parked_is_not_asked(world: World) -> None:
    worker = world.spawn(DENOISE)
    encoded(world, "long")
    runs(world, worker)
    encoded(world, "short")
    assert parked(world) == []


def test_of_several_the_one_with_the_latest_target_gives_way(world: World) -> None:
    workers = [denoiser(world) for _ in range(3)]
    jobs = [encoded(world, "long", target=target) for target in (300.0, 500.0, 400.0)]
    for worker in workers:
        runs(world, worker)
    encoded(world, "short")
    assert parked(world) == [jobs[1]]


def test_each_that_waits_has_one_give_way_and_gets_its_place(world: World) -> None:
    workers = [denoiser(world) for _ in range(2)]
    for _ in workers:
        encoded(world, "long")
    for worker in workers:
        runs(world, worker)
    first, second = encoded(world, "short"), encoded(world, "short")
    assert len(set(parked(world))) == 2
    sent = [action.job_id for action in world.said(Execute) if action.stage is DENOISE]
    assert sent[-2:] == [first, second]


def test_a_busy_peer_is_sent_nothing_that_others_could_still_overtake() -> None:
    world = made()
    world.core.policy = replace(world.core.policy, prefetch=1)
    worker = denoiser(world)
    worker.prefetch = 1
    encoded(world, "long", target=1e6)
    encoded(world, "long", target=1e6)
    runs(world, worker)
    assert len(worker.tasks) == 1
    for _ in range(STEPS - 1):
        world.work(worker)
        world.deliver_all()
    assert len(worker.tasks) == 2, "it has one step left: the next one's input is pulled meanwhile"


def test_the_late_of_a_lower_priority_have_their_share_beside_a_higher_one_that_never_ends() -> None:
    world = made(late_share=3)
    batch = encoded(world, "short", target=1.0, priority=Priority.BATCH)
    worker = denoiser(world)
    for _ in range(3):
        encoded(world, "short", target=900.0, priority=Priority.INTERACTIVE)
        encoded(world, "short", target=900.0, priority=Priority.INTERACTIVE)
        if denoise(world, worker) == batch:
            return
    raise AssertionError("it starved")


def test_one_of_a_shape_that_is_not_known_yet_is_not_taken_to_end_soon_for_ever(world: World) -> None:
    """As long as nothing is known of it, it is taken to need as much as others."""
    world.core.estimates.learn = type(world.core.estimates).learn.__get__(world.core.estimates)  # type: ignore[method-assign]
    for _ in range(40):
        world.core.estimates.learn(DENOISE, "quick", 0.1)
    worker = denoiser(world)
    film = encoded(world, "film", target=1e6)
    runs(world, worker)
    assert world.core.jobs[film].task.ends_soon
    world.advance(60.0)
    world.work(worker)
    world.deliver_all()
    assert not world.core.jobs[film].task.ends_soon
    encoded(world, "quick", target=10.0)
    assert parked(world) == [film]
