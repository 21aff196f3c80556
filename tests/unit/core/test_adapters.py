"""Jobs with adapters go where denoisers offer them, rather where they are loaded, and wait for neither."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from diffusion_router.core import Adapters, Execute, JobStatus, SharesSet, Stage
from unit.core.painters import Painters
from unit.core.timed import POLICY
from unit.core.workers import Phase, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


def having(offered: Iterable[str], loaded: Iterable[str] = ()) -> Adapters:
    return Adapters(frozenset(offered), frozenset(loaded))


@pytest.fixture
def world() -> World:
    world = World()
    world.spawn(ENCODE, capacity=4)
    world.spawn(DECODE, capacity=4)
    return world


def denoised(world: World) -> dict[str, str]:
    """By job, the pod that was given it last."""
    pods = {worker.incarnation: worker.pod for worker in world.workers}
    tasks = [action for action in world.log if isinstance(action, Execute) and action.stage is DENOISE]
    return {task.job_id: pods[task.incarnation] for task in tasks}


def complete(world: World, adapters: str = "", count: int = 1) -> list[str]:
    """Jobs one after another; where each was denoised."""
    found = []
    for _ in range(count):
        job_id = world.submit(adapters=adapters)
        world.run()
        assert world.store[job_id].status is JobStatus.COMPLETED
        found.append(denoised(world)[job_id])
    return found


def test_of_idle_denoisers_that_which_has_the_adapters_loaded_gets_the_job(world: World) -> None:
    cold = world.spawn(DENOISE, adapters=having("abc"))
    warm = world.spawn(DENOISE, adapters=having("abc", "ab"))
    half = world.spawn(DENOISE, adapters=having("abc", "ac"))
    assert complete(world, "ab", 3) == [warm.pod] * 3
    assert complete(world, "c", 2) == [half.pod] * 2
    assert set(complete(world, "", 3)) == {cold.pod, warm.pod, half.pod}, "others take turns as ever"
    world.check_at_rest()


def test_of_those_that_have_only_some_that_with_the_fewest_to_load_gets_it(world: World) -> None:
    world.spawn(DENOISE, adapters=having("abcd", "a"))
    better = world.spawn(DENOISE, adapters=having("abcd", "ab"))
    world.spawn(DENOISE, adapters=having("abcd", "d"))
    assert complete(world, "abc", 1) == [better.pod]


def test_what_a_worker_says_of_its_memory_counts_from_then_on(world: World) -> None:
    first, second = (world.spawn(DENOISE, adapters=having("a")) for _ in range(2))
    second.offer("a", loaded=("a",))
    world.deliver_all()
    assert complete(world, "a", 2) == [second.pod] * 2
    second.offer("a")
    first.offer("a", loaded=("a",))
    world.deliver_all()
    assert complete(world, "a", 2) == [first.pod] * 2


def test_a_second_job_follows_the_first_before_the_worker_has_said_that_it_is_loaded(world: World) -> None:
    for _ in range(3):
        world.spawn(DENOISE, adapters=having("a"))
    assert len(set(complete(world, "a", 4))) == 1


def test_no_job_waits_for_a_busy_denoiser_that_has_its_adapter(world: World) -> None:
    warm = world.spawn(DENOISE, adapters=having("a", "a"))
    world.submit(adapters="a")
    world.run_to(warm, Phase.RUNNING)
    cold = world.spawn(DENOISE, adapters=having("a"))
    second = world.submit(adapters="a")
    world.run_to(cold, Phase.RUNNING)
    assert denoised(world)[second] == cold.pod
    world.run()
    world.check_at_rest()


def test_a_denoiser_that_does_not_offer_them_is_never_given_the_job_and_holds_back_nobody(world: World) -> None:
    without = world.spawn(DENOISE)
    first = world.submit(adapters="a")
    plain = [world.submit() for _ in range(3)]
    world.run(rounds=40)
    assert [world.store[job_id].status for job_id in plain] == [JobStatus.COMPLETED] * 3
    assert world.store[first].status is None, "it waits, as for a role that nobody has"
    without.offer("a")
    world.run()
    assert world.store[first].status is JobStatus.COMPLETED
    world.check_at_rest()


def test_among_denoisers_of_one_generation_those_that_offer_them_are_found_behind_any_number_of_others(
    world: World,
) -> None:
    for _ in range(80):
        world.spawn(DENOISE)
    only = world.spawn(DENOISE, adapters=having("a"))
    assert complete(world, "a", 2) == [only.pod] * 2


def test_a_colocated_denoiser_that_holds_the_input_but_not_the_adapter_hands_it_on() -> None:
    world = World()
    world.spawn(ENCODE, DENOISE)
    other = world.spawn(DENOISE, adapters=having("a"))
    world.spawn(DECODE)
    assert complete(world, "a", 1) == [other.pod]


def test_one_that_waits_behind_others_is_not_called_back_for_a_denoiser_without_its_adapter(world: World) -> None:
    only = world.spawn(DENOISE, adapters=having("a"))
    world.submit(adapters="a")
    world.run_to(only, Phase.RUNNING)
    second = world.submit(adapters="a")
    while not any(held.execute.job_id == second for held in only.tasks.values()):
        world.work(world.workers[0])
        world.deliver_all()
    world.spawn(DENOISE)
    world.run()
    assert denoised(world)[second] == only.pod
    assert sum(isinstance(action, Execute) and action.job_id == second for action in world.log) == len(Stage)
    world.check_at_rest()


def spawn_generation(world: World, generation: str, adapters: str) -> list[Worker]:
    return [world.spawn(stage, generation=generation, adapters=having(adapters)) for stage in Stage]


@pytest.mark.parametrize("share", [None, 0, 100])
def test_a_job_begins_in_the_generation_that_offers_its_adapters_whatever_the_shares_are(share: int | None) -> None:
    world = World()
    spawn_generation(world, "g1", "a")
    spawn_generation(world, "g2", "")
    if share is not None:
        world.tell(SharesSet({"g1": 100 - share, "g2": share}))
    for _ in range(6):
        world.submit(adapters="a")
    world.run()
    assert {worker.generation for worker in world.workers if worker.pod in denoised(world).values()} == {"g1"}
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    world.check_at_rest()


def test_a_job_that_was_encoded_where_its_adapters_are_offered_no_more_starts_over_where_they_are() -> None:
    world = World()
    _, denoiser, _ = spawn_generation(world, "g1", "a")
    job_id = world.submit(adapters="a", conditioning="same")
    world.run_to(denoiser, Phase.WAITING)
    world.kill(denoiser)
    world.spawn(DENOISE, generation="g1")
    spawn_generation(world, "g2", "a")
    # Another that encodes the same, and may do so anywhere.
    world.submit(conditioning="same")
    world.run()
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    assert world.computed[job_id, ENCODE] == 2
    world.check_at_rest()


def test_so_does_one_that_waits_where_no_denoiser_has_room_when_they_are_offered_no_more() -> None:
    world = World()
    encoder, denoiser, _ = spawn_generation(world, "g1", "a")
    *_, last = [world.submit(adapters="a") for _ in range(3)]
    while len(encoder.outputs) < 3:
        world.work(encoder)
        world.deliver_all()
    assert len(denoiser.tasks) == 2, "there is no room for the third"
    denoiser.offer()
    world.deliver_all()
    new, *_ = spawn_generation(world, "g2", "a")
    world.deliver_all()
    assert [held.execute.job_id for held in new.tasks.values()] == [last]


def test_what_another_encoded_where_its_adapters_are_not_offered_is_encoded_again_once_for_all_that_need_it() -> None:
    world = World()
    encoder, *_ = spawn_generation(world, "g2", "")
    world.submit(conditioning="same")
    world.run_to(encoder, Phase.RUNNING)
    spawn_generation(world, "g1", "a")
    for _ in range(3):
        world.submit(adapters="a", conditioning="same")
    world.run()
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    assert sum(count for (_, stage), count in world.computed.items() if stage is ENCODE) == 2
    world.check_at_rest()


def test_one_that_nobody_offers_waits_until_its_deadline_which_says_so(world: World) -> None:
    world.spawn(DENOISE, adapters=having("a"))
    world.spawn(DENOISE, adapters=having("c"))
    jobs = [world.submit(deadline=20.0, adapters=adapters) for adapters in ("ab", "ac")]
    world.run(rounds=60)
    assert [world.store[job_id].status for job_id in jobs] == [JobStatus.FAILED] * 2
    assert [world.store[job_id].message for job_id in jobs] == [
        "not finished by its deadline (ENCODE): no denoiser offers its adapters b",
        "not finished by its deadline (ENCODE): no denoiser offers its adapters a, c",
    ]


def test_an_encoder_that_has_them_loaded_is_preferred_and_one_without_them_has_nothing_to_load(world: World) -> None:
    world.spawn(DENOISE, adapters=having("ab", "ab"))
    loaded = world.spawn(ENCODE, adapters=having("a", "a"))
    cold = world.spawn(ENCODE, adapters=having("a"))
    world.kill(world.workers[0])
    for _ in range(3):
        complete(world, "a")
    assert sum(loaded.computed.values()) == 3
    assert not cold.computed
    for _ in range(4):
        complete(world, "b")
    assert cold.computed, "b changes nothing of what they encode"
    world.check_at_rest()


def test_jobs_with_adapters_survive_a_restart_of_the_router(world: World) -> None:
    world.spawn(DENOISE)
    warm = world.spawn(DENOISE, adapters=having("a", "a"))
    job_id = world.submit(adapters="a")
    world.restart_router()
    world.run()
    assert denoised(world)[job_id] == warm.pod
    world.check_at_rest()


@pytest.mark.parametrize("gap", [0.0, 15.0, 30.0])
def test_the_preference_saves_loads_and_costs_no_job_its_end(gap: float) -> None:
    """gap: seconds between two jobs. Without any, all wait, and nothing is equal."""

    def loads(compared: int) -> int:
        policy = replace(POLICY, compared=compared)
        seconds = {ENCODE: 0.1, DENOISE: 20.0, DECODE: 0.5}
        made = Painters(4, "abcdefgh", room=2, seconds=seconds, load=4.0, policy=policy)
        for name in random.Random(1).choices("abcdefgh", k=120):
            made.submit("", 1e9, accept_late=True, adapters=frozenset(name))
            made.run(made.now + gap)
        made.run()
        assert all(job.status is JobStatus.COMPLETED for job in made.admitted.values())
        return made.loads

    if gap:
        assert loads(POLICY.compared) < 0.8 * loads(1)
    else:
        assert loads(POLICY.compared) <= loads(1)


def test_a_job_that_comes_to_wait_with_younger_ones_is_not_lost_among_them() -> None:
    world = World()
    world.spawn(DENOISE, adapters=having("a")), world.spawn(DECODE)
    older = world.submit(adapters="a")
    world.spawn(DENOISE)
    younger = world.submit(adapters="a")
    encoder = world.spawn(ENCODE)
    assert [held.execute.job_id for held in encoder.tasks.values()] == [older, younger]
    world.run()
    world.check_at_rest()
