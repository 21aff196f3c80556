"""A peer that leaves takes nothing with it: denoisings are parked and go on elsewhere, outputs are copied (I12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusion_router.core import Execute, FailureKind, JobStatus, ParkTask, ReleaseSlot, Stage
from unit.core.workers import STEPS, Phase, Worker
from unit.core.world import POLICY, World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def spawn(world: World, *stages: Stage, **settings: object) -> Worker:
    return world.spawn(*stages, resumable=True, copies=True, **settings)


def at_step(world: World, denoiser: Worker, step: int = 1) -> None:
    """Its task has made so many steps, and the router knows."""
    world.run_to(denoiser, Phase.RUNNING)
    for _ in range(step):
        world.work(denoiser)
    world.deliver_all()


def encode(world: World, encoder: Worker) -> None:
    """It keeps an output, and the router knows."""
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.deliver_all()
    assert encoder.outputs


def leave(world: World, worker: Worker) -> None:
    worker.drain()
    world.deliver_all()


def gone(world: World, worker: Worker) -> bool:
    """Whether it leaves as soon as everything that was said has arrived."""
    world.deliver_all()
    world.tend(worker)
    return not worker.alive


def check_no_step_was_made_twice(world: World) -> None:
    assert set(world.steps.values()) == {1}
    assert len(world.steps) == STEPS * len(world.store)
    assert set(world.computed.values()) == {1}


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_denoising_goes_on_elsewhere_from_its_step(world: World, step: int) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    job = world.submit()
    at_step(world, denoiser, step - 1)
    other = spawn(world, DENOISE)
    leave(world, denoiser)
    world.work(denoiser)
    world.deliver_all()
    assert (world.core.jobs[job].step, world.core.jobs[job].steps) == (step, STEPS)
    world.work_until(other, Phase.RUNNING)
    assert gone(world, denoiser), "its successor has what it needs"
    assert not any(action.copy for action in world.said(Execute)), "it was pulled once"
    world.run()
    world.check_at_rest()
    check_no_step_was_made_twice(world)


def test_one_that_nobody_can_take_is_computed_on(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    world.submit()
    at_step(world, denoiser)
    leave(world, denoiser)
    world.run()
    world.check_at_rest()
    assert not list(world.said(ParkTask))
    check_no_step_was_made_twice(world)


def test_one_that_somebody_can_take_later_is_parked_then(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    world.submit()
    at_step(world, denoiser)
    leave(world, denoiser)
    spawn(world, DENOISE)
    assert [park.incarnation for park in world.said(ParkTask)] == [denoiser.incarnation]
    world.run()
    world.check_at_rest()
    check_no_step_was_made_twice(world)


def test_one_that_cant_be_parked_is_computed_to_its_end(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = world.spawn(DENOISE, copies=True)
    world.submit()
    at_step(world, denoiser)
    spawn(world, DENOISE)
    leave(world, denoiser)
    world.run()
    world.check_at_rest()
    assert not list(world.said(ParkTask))
    check_no_step_was_made_twice(world)


def test_a_peer_of_another_generation_or_without_its_adapter_is_no_successor(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    denoiser.offer("a")
    world.deliver_all()
    world.submit(adapters=["a"])
    at_step(world, denoiser)
    spawn(world, DENOISE, generation="g2"), spawn(world, DENOISE)
    leave(world, denoiser)
    assert not list(world.said(ParkTask))


def test_a_checkpoint_waits_at_a_busy_peer_not_at_the_one_that_leaves() -> None:
    world = World(replace(POLICY, prefetch=0))
    encoder, denoiser = spawn(world, ENCODE), spawn(world, DENOISE)
    spawn(world, DECODE)
    world.submit()
    at_step(world, denoiser)
    busy = spawn(world, DENOISE)
    world.submit()
    encode(world, encoder)
    world.work_until(busy, Phase.RUNNING)
    leave(world, denoiser)
    world.work(denoiser)
    world.deliver_all()
    copy = next(held for held in busy.tasks.values() if held.execute.copy)
    world.work(busy, list(busy.tasks.values()).index(copy))
    assert gone(world, denoiser)
    world.run()
    world.check_at_rest()
    check_no_step_was_made_twice(world)


def test_conditioning_is_copied_to_another_encoder(world: World) -> None:
    encoder = spawn(world, ENCODE)
    spawn(world, DECODE)
    job = world.submit()
    encode(world, encoder)
    other = spawn(world, ENCODE)
    leave(world, encoder)
    world.work(other)
    assert gone(world, encoder)
    assert [output.job_id for output in other.outputs.values()] == [job]
    spawn(world, DENOISE)
    world.run()
    world.check_at_rest()
    check_no_step_was_made_twice(world)


def test_jobs_that_share_conditioning_share_its_copy(world: World) -> None:
    encoder = spawn(world, ENCODE)
    spawn(world, DECODE)
    for _ in range(3):
        world.submit(conditioning="a")
    encode(world, encoder)
    other = spawn(world, ENCODE)
    leave(world, encoder)
    world.work(other)
    world.submit(conditioning="a")
    assert gone(world, encoder)
    spawn(world, DENOISE)
    world.run()
    world.check_at_rest()
    assert sum(times for (_, stage), times in world.computed.items() if stage is ENCODE) == 1


def test_what_a_stage_has_begun_with_is_let_go(world: World) -> None:
    encoder, denoiser = spawn(world, ENCODE), spawn(world, DENOISE)
    spawn(world, DECODE)
    world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    world.deliver_all()
    leave(world, encoder)
    assert gone(world, encoder)
    assert not any(action.copy for action in world.said(Execute)), "nobody waits for it"


def test_should_the_successor_die_the_job_goes_on_from_its_conditioning(world: World) -> None:
    encoder = spawn(world, ENCODE)
    spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    job = world.submit()
    at_step(world, denoiser)
    other = spawn(world, DENOISE)
    leave(world, denoiser)
    world.work(denoiser)
    world.work_until(other, Phase.RUNNING)
    assert gone(world, denoiser)
    world.kill(other)
    world.advance(world.policy.lease * 2)
    assert world.core.jobs[job].step == 0
    spawn(world, DENOISE)
    world.run()
    world.check_at_rest()
    assert world.computed[job, ENCODE] == 1
    assert encoder.computed[job, ENCODE] == 1


def test_a_checkpoint_that_cant_be_pulled_costs_steps_and_no_encoding(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    job = world.submit()
    at_step(world, denoiser)
    spawn(world, DENOISE)
    leave(world, denoiser)
    world.work(denoiser)
    world.deliver_up(denoiser, 5)
    world.kill(denoiser)
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert world.computed[job, ENCODE] == 1
    assert world.steps[job, 1] == 2


def test_a_router_that_restarts_hears_of_checkpoints(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    job = world.submit()
    at_step(world, denoiser)
    task = next(iter(denoiser.tasks.values()))
    task.parking = True
    world.work(denoiser)
    world.restart_router()
    for worker in world.workers:
        world.tend(worker)
    world.deliver_all()
    assert world.core.jobs[job].step == 2
    world.run()
    world.check_at_rest()
    check_no_step_was_made_twice(world)


def test_a_copy_under_way_when_the_router_restarts_is_called_off(world: World) -> None:
    encoder = spawn(world, ENCODE)
    spawn(world, DECODE)
    job = world.submit()
    encode(world, encoder)
    other = spawn(world, ENCODE)
    leave(world, encoder)
    assert other.tasks
    world.restart_router()
    for worker in world.workers:
        world.tend(worker)
    spawn(world, DENOISE)
    world.run()
    world.check_at_rest()
    assert world.computed[job, ENCODE] == 1


def test_a_copy_that_fails_is_tried_again(world: World) -> None:
    encoder = spawn(world, ENCODE)
    spawn(world, DECODE)
    world.submit()
    encode(world, encoder)
    other = spawn(world, ENCODE)
    leave(world, encoder)
    other.end_task(next(iter(other.tasks.values())), FailureKind.TRANSFER)
    world.deliver_all()
    world.run_round()
    world.run_round()
    assert gone(world, encoder)
    assert other.outputs


def test_a_job_that_is_cancelled_while_its_output_is_copied_leaves_nothing(world: World) -> None:
    encoder = spawn(world, ENCODE)
    job = world.submit()
    encode(world, encoder)
    other = spawn(world, ENCODE)
    leave(world, encoder)
    world.cancel(job)
    world.run()
    world.check_at_rest()
    assert [release.incarnation for release in world.said(ReleaseSlot)].count(other.incarnation) == 1


def test_a_peer_is_no_keeper_without_room_beside_its_own_tasks(world: World) -> None:
    encoder = spawn(world, ENCODE)
    world.submit()
    encode(world, encoder)
    spawn(world, ENCODE, slots=1), world.spawn(ENCODE)
    leave(world, encoder)
    assert not any(action.copy for action in world.said(Execute))
