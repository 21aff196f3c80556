"""A denoiser that is lost takes at most so many seconds of work with it: another keeps checkpoints of what goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusion_router.core import (
    AskCheckpoint,
    Execute,
    FailureKind,
    JobState,
    JobStatus,
    Outcome,
    ReleaseSlot,
    Stage,
)
from unit.core.workers import STEPS, Phase, Worker
from unit.core.world import POLICY, World

ENCODE, DENOISE, DECODE = Stage
SECONDS = 1.0


@pytest.fixture
def world() -> World:
    return World(replace(POLICY, checkpoint=SECONDS))


def spawn(world: World, *stages: Stage, **settings: object) -> Worker:
    able = {"resumable": True, "copies": True, "checkpoints": True, "slots": 8}
    return world.spawn(*stages, **(able | settings))


def denoising(world: World, **settings: object) -> tuple[str, Worker, Worker]:
    """A job that is denoised, where, and the other denoiser."""
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE, **settings)
    other = spawn(world, DENOISE)
    job = world.submit()
    for _ in range(20):
        if any(held.phase is Phase.RUNNING for worker in (denoiser, other) for held in worker.tasks.values()):
            break
        for worker in world.workers:
            world.work(worker)
        world.deliver_all()
    runs, keeps = (denoiser, other) if denoiser.tasks else (other, denoiser)
    return job, runs, keeps


def step(world: World, denoiser: Worker) -> None:
    """Its task makes a step, and all that follows from it arrives, but for work of others."""
    world.work(denoiser)
    world.deliver_all()


def copy(world: World, keeper: Worker) -> None:
    held = next(held for held in keeper.tasks.values() if held.execute.copy)
    world.work(keeper, list(keeper.tasks.values()).index(held))
    world.deliver_all()


def kept(world: World) -> tuple[str, Worker, Worker]:
    """The same, when the other keeps a checkpoint of the first step."""
    job, denoiser, other = denoising(world)
    step(world, denoiser)
    copy(world, other)
    assert [output.parked.step for output in other.outputs.values()] == [1]
    return job, denoiser, other


def kill(world: World, worker: Worker) -> None:
    world.kill(worker)
    world.advance(POLICY.lease + 0.1)


def end(world: World) -> None:
    world.run()
    world.check_at_rest()
    assert {job.status for job in world.store.values()} == {JobStatus.COMPLETED}


def test_a_lost_denoiser_costs_the_steps_since_its_last_checkpoint(world: World) -> None:
    job, denoiser, _ = kept(world)
    step(world, denoiser)
    kill(world, denoiser)
    record = world.core.jobs[job].records[1]
    assert (record.stage, record.lost_steps) == (DENOISE, 1)
    assert world.core.jobs[job].step == 1
    end(world)
    assert world.steps == {(job, 1): 1, (job, 2): 2, (job, 3): 1}
    outcomes = world.core.saved.outcomes
    assert (outcomes[Outcome.KEPT], outcomes[Outcome.RESUMED]) == (1, 1)
    assert world.core.saved.lost_steps == 1


def test_without_it_all_steps_are_lost() -> None:
    world = World()
    job, denoiser, _ = denoising(world)
    step(world, denoiser), step(world, denoiser)
    kill(world, denoiser)
    assert world.core.jobs[job].records[1].lost_steps == 2
    end(world)
    assert not list(world.said(AskCheckpoint))
    assert world.steps == {(job, 1): 2, (job, 2): 2, (job, 3): 1}


def test_it_is_asked_for_when_the_task_begins_and_again_when_the_last_one_is_kept(world: World) -> None:
    _, denoiser, other = denoising(world)
    asked = [ask.within for ask in world.said(AskCheckpoint)]
    assert asked == [SECONDS]
    world.advance(0.25)
    step(world, denoiser)
    world.advance(0.25)
    copy(world, other)
    assert [ask.within for ask in world.said(AskCheckpoint)] == pytest.approx([SECONDS, SECONDS - 0.25])


def test_the_one_before_is_released_when_the_new_one_is_there_and_not_sooner(world: World) -> None:
    job, denoiser, other = kept(world)
    (first,) = other.outputs
    step(world, denoiser)
    assert first in other.outputs
    copy(world, other)
    assert [output.parked.step for output in other.outputs.values()] == [2]
    assert not any(result.parked for result in denoiser.outputs.values()), "the originals are released"
    kill(world, denoiser)
    end(world)
    assert world.steps == {(job, at): 1 for at in range(1, STEPS + 1)}


@pytest.mark.parametrize("how", ["ends", "is cancelled", "fails", "parks"])
def test_it_is_released_when_its_denoising(world: World, how: str) -> None:
    job, denoiser, other = kept(world)
    (checkpoint,) = other.outputs
    if how == "ends":
        for _ in range(STEPS):
            step(world, denoiser)
    elif how == "is cancelled":
        world.cancel(job)
    elif how == "fails":
        world.fail_task(denoiser, 0, FailureKind.MODEL_ERROR)
    else:
        denoiser.drain()
        world.deliver_all()
        step(world, denoiser)
    world.deliver_all()
    assert checkpoint not in other.outputs
    assert ReleaseSlot(other.incarnation, checkpoint) in list(world.said(ReleaseSlot))
    world.run()
    world.check_at_rest()


def test_nobody_is_asked_where_nobody_could_keep_it(world: World) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DENOISE, generation="g2", draining=True), spawn(world, DENOISE, copies=False)
    world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    world.deliver_all()
    step(world, denoiser)
    world.advance(SECONDS)
    step(world, denoiser)
    assert not list(world.said(AskCheckpoint))
    assert world.core.saved.outcomes == {Outcome.LEFT_OUT: 1}
    end(world)


@pytest.mark.parametrize("unable", [{"resumable": False}, {"checkpoints": False}])
def test_one_that_cant_is_not_asked(world: World, unable: dict[str, object]) -> None:
    spawn(world, ENCODE), spawn(world, DECODE)
    first, second = spawn(world, DENOISE, **unable), spawn(world, DENOISE, **unable)
    world.submit()
    for _ in range(12):
        world.run_round()
        world.advance(0.3)
    assert first.computed or second.computed
    assert not list(world.said(AskCheckpoint))


def test_it_stands_in_the_way_of_no_result(world: World) -> None:
    """With room for two tasks' inputs and outputs nobody is asked; nothing that is made waits."""
    spawn(world, ENCODE), spawn(world, DECODE)
    spawn(world, DENOISE, slots=2), spawn(world, DENOISE, slots=2)
    for _ in range(4):
        world.submit()
    end(world)
    assert not list(world.said(AskCheckpoint))


def test_a_pool_without_room_is_asked_again_later_and_one_that_never_can_is_not(world: World) -> None:
    _, denoiser, _ = denoising(world)
    (held,) = denoiser.tasks.values()
    held.checkpoint = ""
    (asked,) = world.said(AskCheckpoint)

    def refuse(ask: AskCheckpoint, kind: FailureKind) -> None:
        held.checkpoint = ""
        denoiser.fail(ask.checkpoint_id, kind)
        world.deliver_all()

    refuse(asked, FailureKind.POOL_FULL)
    assert world.core.peers[denoiser.incarnation].slots_used == 2
    step(world, denoiser)
    assert len(list(world.said(AskCheckpoint))) == 1
    world.advance(SECONDS)
    held.step = 0
    step(world, denoiser)
    *_, again = world.said(AskCheckpoint)
    assert again.checkpoint_id != asked.checkpoint_id
    refuse(again, FailureKind.TOO_LARGE)
    world.advance(2 * SECONDS)
    step(world, denoiser)
    assert len(list(world.said(AskCheckpoint))) == 2
    assert world.core.saved.outcomes == {Outcome.LEFT_OUT: 2}


def test_when_its_keeper_is_lost_another_is_asked_for_at_once(world: World) -> None:
    job, denoiser, other = kept(world)
    spawn(world, DENOISE)
    world.kill(other)
    world.advance(POLICY.lease + 0.1)
    assert not world.core.jobs[job].status.ended
    step(world, denoiser)
    *_, last = world.said(AskCheckpoint)
    assert last.within == 0
    end(world)


def test_when_its_keeper_leaves_another_keeps_it_or_nobody_does(world: World) -> None:
    job, denoiser, other = kept(world)
    third = spawn(world, DENOISE)
    other.drain()
    world.deliver_all()
    copy(world, third)
    world.tend(other)
    assert not other.alive, "it waits for nobody"
    kill(world, denoiser)
    assert world.core.jobs[job].step == 1
    end(world)
    assert world.steps[job, 1] == 1


def test_who_leaves_with_the_last_place_for_it_is_not_held_up(world: World) -> None:
    _, _, other = kept(world)
    other.drain()
    world.deliver_all()
    world.tend(other)
    assert not other.alive
    end(world)


def test_a_copy_that_is_heard_of_after_the_loss_is_gone_on_from() -> None:
    world = World(replace(POLICY, checkpoint=SECONDS, prefetch=0))
    encoder, other = spawn(world, ENCODE), spawn(world, DENOISE)
    spawn(world, DECODE)
    world.submit()
    world.run_to(other, Phase.RUNNING)
    denoiser = spawn(world, DENOISE)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    step(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    step(world, denoiser)
    held = next(held for held in other.tasks.values() if held.execute.copy)
    world.work(other, list(other.tasks.values()).index(held))
    world.kill(denoiser)
    again = world.respawn(denoiser, attach=False)
    again.draining = True
    again.attach()
    world.deliver_up(again)
    record = world.core.jobs[job].records[1]
    assert record.lost_steps == 1
    world.deliver_all()
    assert (world.core.jobs[job].step, record.lost_steps) == (1, 0)
    end(world)
    assert world.steps[job, 1] == 1
    assert world.core.saved.lost_steps == 0


def test_a_copy_that_fails_leaves_nothing(world: World) -> None:
    _, denoiser, other = denoising(world)
    step(world, denoiser)
    held = next(held for held in other.tasks.values() if held.execute.copy)
    other.end_task(held, FailureKind.TRANSFER)
    world.deliver_all()
    assert not denoiser.outputs
    assert world.core.saved.outcomes == {Outcome.LEFT_OUT: 1}
    end(world)


@pytest.mark.parametrize("first", ["who computes", "who keeps"])
def test_it_outlives_the_router(world: World, first: str) -> None:
    job, denoiser, other = kept(world)
    world.restart_router()
    for worker in (denoiser, other) if first == "who computes" else (other, denoiser):
        worker.attach()
        world.deliver_all()
    for worker in world.workers:
        if worker not in (denoiser, other):
            worker.attach()
    world.deliver_all()
    assert world.core.jobs[job].state in (JobState.DENOISING, JobState.DENOISING_ADOPTED)
    assert other.outputs, "it is kept"
    assert denoiser.tasks, "what computes goes on"
    kill(world, denoiser)
    end(world)
    assert world.steps[job, 1] == 1
    assert len([action for action in world.said(Execute) if action.stage is ENCODE]) == 1


def test_one_that_was_asked_of_a_broken_stream_is_asked_for_again(world: World) -> None:
    _, denoiser, other = denoising(world)
    world.cut(denoiser)
    denoiser.attach()
    world.deliver_all()
    assert world.core.peers[denoiser.incarnation].slots_used == 2
    (held,) = denoiser.tasks.values()
    held.checkpoint = ""
    step(world, denoiser)
    step(world, denoiser)
    copy(world, other)
    assert [output.parked.step for output in other.outputs.values()] == [2]
    end(world)


def test_one_that_was_made_while_the_stream_was_broken_is_kept(world: World) -> None:
    _, denoiser, other = denoising(world)
    world.cut(denoiser)
    world.work(denoiser)
    denoiser.attach()
    world.deliver_all()
    copy(world, other)
    assert [output.parked.step for output in other.outputs.values()] == [1]
    end(world)


def test_what_failed_in_the_model_is_not_gone_on_from(world: World) -> None:
    job, denoiser, _ = kept(world)
    world.fail_task(denoiser, 0, FailureKind.MODEL_ERROR)
    world.deliver_all()
    assert world.core.jobs[job].records[1].lost_steps == 1
    end(world)
    assert world.steps[job, 1] == 2
