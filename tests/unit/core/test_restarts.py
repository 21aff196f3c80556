"""The router is killed and started again on its store (I7)."""

from __future__ import annotations

import pytest

from diffusion_router.core import CancelTask, Execute, JobStatus, JobSubmitted, PeerLost, ReleaseSlot, Stage
from unit.core.workers import STEPS, Phase, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def attach_all(world: World, order: list[Worker]) -> None:
    for worker in order:
        worker.attach()
        world.deliver_up(worker)


def test_a_running_task_goes_on_and_its_stage_is_not_computed_twice(world: World) -> None:
    encoder, denoiser, decoder = (world.spawn(stage) for stage in Stage)
    job = world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    world.restart_router()
    attach_all(world, [decoder, denoiser, encoder])
    world.run()
    world.check_at_rest()
    assert [world.computed[job, stage] for stage in Stage] == [1, 1, 1]


def test_an_output_that_is_still_held_is_used(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.deliver_all()
    world.restart_router()
    world.spawn(DENOISE)
    world.spawn(DECODE)
    world.run()
    world.check_at_rest()
    assert [world.computed[job, stage] for stage in Stage] == [1, 1, 1]


def test_a_finished_job_whose_end_was_not_written_down_completes_without_new_work(world: World) -> None:
    worker = world.spawn()
    job = world.submit()
    while not any(result.stage is DECODE for result in worker.outputs.values()):
        world.work(worker)
        world.deliver_up(worker, 5)
        world.deliver_down(worker, 5)
    world.restart_router()
    before = len(list(world.said(Execute)))
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert len(list(world.said(Execute))) == before


def test_a_job_that_nobody_claims_starts_after_the_settle_time_and_not_before(world: World) -> None:
    job = world.submit()
    world.restart_router()
    worker = world.spawn()
    world.advance(world.policy.settle - 0.1)
    world.deliver_all()
    assert not worker.tasks
    world.advance(0.2)
    world.deliver_all()
    assert [held.execute.job_id for held in worker.tasks.values()] == [job]


def test_a_new_job_does_not_wait_for_the_settle_time(world: World) -> None:
    world.submit()
    world.restart_router()
    worker = world.spawn()
    new = world.submit()
    world.deliver_all()
    assert [held.execute.job_id for held in worker.tasks.values()] == [new]


def test_i3_an_output_that_is_adopted_first_waits_for_a_consumer_that_registers_later(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    job = world.submit()
    world.run_to(denoiser, Phase.PULLING)
    world.restart_router()
    attach_all(world, [encoder])
    world.cancel(job)
    world.advance(0.2)
    assert not list(world.said(ReleaseSlot)), "someone of whom this router has not heard may be pulling"
    attach_all(world, [denoiser])
    world.deliver_down(denoiser, 5)
    world.advance(world.policy.settle + world.policy.grace)
    world.run()
    world.check_at_rest()


def test_i3_an_output_that_is_adopted_after_its_consumer_was_lost_waits_for_the_grace(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    job = world.submit()
    world.run_to(denoiser, Phase.PULLING)
    world.restart_router()
    attach_all(world, [denoiser])
    world.cancel(job)
    # It falls silent, while its producer is still cut off, and may go on reading.
    denoiser.frozen = True
    world.advance(world.policy.settle + world.policy.grace + 0.5)
    assert list(world.said(PeerLost))
    attach_all(world, [encoder])
    assert not list(world.said(ReleaseSlot)), "the frozen consumer may thaw and read"
    world.advance(world.policy.grace)
    assert [action.task_id for action in world.said(ReleaseSlot)] == list(encoder.outputs)


def test_i3_a_task_that_says_what_it_reads_keeps_that_output_and_no_other(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    job = world.submit()
    world.run_to(denoiser, Phase.PULLING)
    stale = world.spawn(ENCODE)
    (result,) = encoder.outputs.values()
    where = type(result.report)(stale.incarnation, f"{job}.encode.9.e0", "g1", "ENCODE of j1")
    stale.outputs[where.task_id] = type(result)(where.task_id, job, ENCODE, where)
    world.restart_router()
    attach_all(world, [denoiser, stale, encoder])
    world.advance(world.policy.settle + world.policy.grace + 1)
    assert [release.task_id for release in world.said(ReleaseSlot)] == [where.task_id]
    world.spawn(DECODE)
    world.run()
    world.check_at_rest()


def test_i3_of_two_outputs_that_an_adopted_task_may_read_both_are_kept_until_it_is_done(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE, says_inputs=False)
    job = world.submit()
    world.run_to(denoiser, Phase.PULLING)
    # An encoder that a release never reached has an older output of the same job.
    stale = world.spawn(ENCODE)
    (result,) = encoder.outputs.values()
    where = type(result.report)(stale.incarnation, f"{job}.encode.9.e0", "g1", "ENCODE of j1")
    stale.outputs[where.task_id] = type(result)(where.task_id, job, ENCODE, where)
    world.restart_router()
    attach_all(world, [denoiser, stale, encoder])
    world.advance(world.policy.settle + world.policy.grace + 1)
    assert not list(world.said(ReleaseSlot))
    world.spawn(DECODE)
    world.run()
    world.check_at_rest()


def test_a_late_worker_that_is_further_on_wins_over_a_task_begun_anew(world: World) -> None:
    encoder, denoiser, _ = (world.spawn(stage) for stage in Stage)
    job = world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    world.restart_router()
    attach_all(world, [encoder])
    encoder.outputs.clear()
    world.cut(encoder)
    attach_all(world, [encoder])
    world.advance(world.policy.settle + 0.1)
    world.deliver_all()
    assert encoder.tasks, "it was begun anew"
    attach_all(world, [denoiser])
    world.deliver_all()
    assert denoiser.tasks
    assert not next(iter(denoiser.tasks.values())).cancelled
    world.run()
    world.check_at_rest()
    assert world.computed[job, DENOISE] == 1


def test_a_task_of_a_job_that_is_unknown_is_cancelled_and_its_output_released(world: World) -> None:
    worker = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(worker, Phase.RUNNING)
    del world.store[job]
    world.restart_router()
    attach_all(world, [worker])
    assert [action.task_id for action in world.said(CancelTask)] == list(worker.tasks)
    while worker.tasks:
        world.run_round()
    assert world.core.peers[worker.incarnation].credits == 2


@pytest.mark.parametrize("order", [(DENOISE, DECODE), (DECODE, DENOISE)])
def test_it_is_known_of_a_finished_denoising_how_many_steps_it_had_and_who_made_it(
    world: World, order: tuple[Stage, ...]
) -> None:
    """Whichever of the two registers first: who made it, or who reads it already."""
    of = {stage: world.spawn(stage) for stage in Stage}
    job = world.submit()
    world.run_to(of[DECODE], Phase.RUNNING)
    world.restart_router()
    attach_all(world, [of[stage] for stage in order])
    known = world.core.jobs[job]
    assert (known.step, known.steps) == (STEPS, STEPS)
    told = {record.stage: record.pod_name for record in known.records}
    assert told == {stage: of[stage].pod for stage in order}
    assert known.records[-1].stage is DECODE, "whose report comes yet"
    world.run()
    world.check_at_rest()


def test_a_task_may_be_claimed_until_workers_have_had_the_time_to_register(world: World) -> None:
    decoder = [world.spawn(stage) for stage in Stage][-1]
    job = world.submit()
    world.run_to(decoder, Phase.RUNNING)
    (task,) = decoder.tasks
    assert not world.core.may_be_claimed(task, job, world.now), "it is of this life"
    world.restart_router()
    assert world.core.may_be_claimed(task, job, world.now)
    assert not world.core.may_be_claimed(task, "another", world.now)
    assert not world.core.may_be_claimed(task, job, world.now + world.policy.settle)
    attach_all(world, [decoder])
    assert not world.core.may_be_claimed(task, job, world.now), "it was"


def test_the_stage_table_tells_of_adopted_work_too(world: World) -> None:
    encoder, denoiser, _ = (world.spawn(stage) for stage in Stage)
    job = world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    world.restart_router()
    attach_all(world, [encoder, denoiser])
    records = world.core.jobs[job].records
    assert [(record.stage, record.pod_name) for record in records] == [(ENCODE, encoder.pod), (DENOISE, denoiser.pod)]


def test_restored_jobs_keep_their_place_before_new_ones(world: World) -> None:
    world.tell(JobSubmitted("old", 1e9, restored=True))
    world.tell(JobSubmitted("new", 1e9))
    assert world.core.jobs["old"].seq < world.core.jobs["new"].seq


@pytest.mark.parametrize("after", range(0, 30, 2))
@pytest.mark.parametrize("late", [False, True])
def test_i7_the_loss_of_the_router_at_any_moment_loses_no_job(world: World, after: int, late: bool) -> None:
    for roles in [(ENCODE,), (DENOISE,), (DENOISE,), (DECODE,), tuple(Stage)]:
        world.spawn(*roles)
    for _ in range(5):
        world.submit()
    for _ in range(after):
        world.run_round()
    world.restart_router()
    if late:
        attach_all(world, world.workers[:1])
        world.advance(world.policy.settle + 0.1)
    world.run()
    world.check_at_rest()
    assert {job.status for job in world.store.values()} == {JobStatus.COMPLETED}
    if not late:
        assert max(world.computed.values()) == 1, "nothing that is still held is computed twice"
