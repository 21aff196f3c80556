"""Workers die, freeze and lose their streams; the client sees only time (I6)."""

from __future__ import annotations

import pytest

from diffusion_router.core import Execute, FailureKind, JobStatus, PeerLost, ReleaseSlot, Stage, Tick
from unit.core.workers import Phase, Where, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def fleet(world: World) -> tuple[Worker, Worker, Worker]:
    return world.spawn(ENCODE), world.spawn(DENOISE), world.spawn(DECODE)


def finish_stage(world: World, worker: Worker) -> None:
    """Runs its first task to the end, and the router knows."""
    world.deliver_all()
    task_id = next(iter(worker.tasks))
    while task_id in worker.tasks:
        world.work(worker)
        world.deliver_all()


def test_an_encoder_lost_after_its_output_was_pulled_costs_nothing(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    world.work_until(denoiser, Phase.WAITING)
    world.kill(encoder)
    world.advance(world.policy.lease * 2)
    world.run()
    world.check_at_rest()
    assert [world.computed[job, stage] for stage in Stage] == [1, 1, 1]


def test_an_encoder_lost_before_its_output_was_pulled_costs_one_encode(world: World) -> None:
    encoder, _, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    world.kill(encoder)
    world.respawn(encoder)
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert [world.computed[job, stage] for stage in Stage] == [2, 1, 1]


def test_when_the_consumer_is_lost_the_next_one_pulls_the_same_bytes(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    world.kill(denoiser)
    world.advance(world.policy.lease * 2)
    world.spawn(DENOISE)
    world.run()
    world.check_at_rest()
    inputs = [action.input for action in world.said(Execute) if action.stage is DENOISE]
    assert len(inputs) == 2
    assert inputs[0] == inputs[1]
    assert world.computed[job, ENCODE] == 1


def test_i3_a_slot_outlives_the_loss_of_its_consumer_by_the_grace(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    denoiser.frozen = True
    world.cancel(job)
    world.advance(world.policy.lease + 0.5)
    assert list(world.said(PeerLost))
    assert not list(world.said(ReleaseSlot)), "the frozen consumer may thaw and read"
    world.advance(world.policy.grace)
    assert [action.task_id for action in world.said(ReleaseSlot)] == list(encoder.outputs)


def test_a_broken_stream_that_comes_back_within_the_lease_costs_nothing(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    for worker in (encoder, denoiser):
        world.cut(worker)
    world.work(denoiser)
    world.advance(world.policy.lease / 5)
    world.run()
    world.check_at_rest()
    assert [world.computed[job, stage] for stage in Stage] == [1, 1, 1]
    assert not list(world.said(PeerLost))


def test_an_execute_that_never_arrived_is_sent_to_another(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    world.cut(encoder)
    other = world.spawn(ENCODE)
    encoder.attach()
    world.deliver_all()
    assert [held.execute.job_id for worker in (encoder, other) for held in worker.tasks.values()] == [job]


def test_a_result_that_was_cut_off_is_taken_from_the_next_registration(world: World) -> None:
    encoder, _, _ = fleet(world)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.cut(encoder)
    world.run()
    world.check_at_rest()
    assert world.computed[job, ENCODE] == 1


def test_a_release_that_was_cut_off_is_said_again(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    world.submit()
    finish_stage(world, encoder)
    encoder.frozen = True  # its commands wait
    finish_stage(world, denoiser)
    world.cut(encoder)
    encoder.frozen = False
    world.run()
    world.check_at_rest()
    assert not encoder.outputs


def test_a_cancel_that_was_cut_off_is_said_again(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    encoder.frozen = True
    world.cancel(job)
    world.cut(encoder)
    encoder.frozen = False
    encoder.attach()
    world.deliver_all()
    assert next(iter(encoder.tasks.values())).cancelled


def test_a_frozen_worker_is_fenced_and_its_late_bytes_are_not_heard(world: World) -> None:
    encoder, denoiser, _ = fleet(world)
    job = world.submit()
    finish_stage(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    denoiser.frozen = True
    world.advance(world.policy.lease + 0.5)
    other = world.spawn(DENOISE)
    old = denoiser.incarnation
    denoiser.frozen = False
    while denoiser.tasks:
        world.work(denoiser)
    world.run()
    world.check_at_rest()
    assert denoiser.incarnation != old, "it came back as a new one"
    assert other.computed[job, DENOISE] == 1


def test_transfers_that_fail_because_their_producers_are_lost_fail_no_job(world: World) -> None:
    """More of them than a job may otherwise have, all before the first lease ends."""
    denoiser, _ = world.spawn(DENOISE), world.spawn(DECODE)
    job = world.submit()
    for _ in range(4):
        encoder = world.spawn(ENCODE)
        finish_stage(world, encoder)
        encoder.frozen = True
        world.cut(encoder)
        while world.core.jobs[job].stage is DENOISE:
            world.work(denoiser)
            world.deliver_all()
            world.advance(0.1)
    assert not list(world.said(PeerLost))
    world.spawn(ENCODE)
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED


def test_a_task_that_only_waited_on_a_dead_worker_is_not_blamed(world: World) -> None:
    first, second = world.submit(), world.submit()
    worker = world.spawn(ENCODE)
    for _ in range(4):
        assert len(worker.tasks) == (2 if world.store[first].kills < 2 else 1)
        if world.store[first].kills < 2:
            world.work_until(worker, Phase.RUNNING)
        world.kill(worker)
        world.advance(world.policy.lease * 2)
        worker = world.respawn(worker)
    world.deliver_all()
    assert world.store[first].kind is FailureKind.POISON
    assert world.store[second].status is None
    assert world.store[second].kills == 0


def test_i11_a_job_that_kills_its_worker_twice_is_failed_as_poison_and_spares_the_third(world: World) -> None:
    job = world.submit()
    worker = world.spawn()
    for _ in range(2):
        world.work_until(worker, Phase.RUNNING)
        world.kill(worker)
        worker = world.respawn(worker)
    world.deliver_all()
    assert world.store[job].kind is FailureKind.POISON
    assert not worker.given


@pytest.mark.parametrize("silences", [2, 5])
def test_i11_silence_is_not_a_kill(world: World, silences: int) -> None:
    job = world.submit()
    for _ in range(silences):
        away = world.spawn()
        world.work_until(away, Phase.RUNNING)
        away.frozen = True
        world.advance(world.policy.lease + 0.1)
    world.spawn()
    world.run()
    assert (world.store[job].status, world.store[job].kills) == (JobStatus.COMPLETED, 0)


def test_i11_a_worker_that_falls_silent_and_comes_back_had_not_died(world: World) -> None:
    job = world.submit()
    worker = world.spawn()
    for _ in range(3):
        world.work_until(worker, Phase.RUNNING)
        worker.frozen = True
        world.advance(world.policy.lease + 0.1)
        worker.frozen = False
        world.run_round()  # it is told that it was given up
        world.run_round()
        world.deliver_all()
    assert world.store[job].kills == 0
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED


def test_i11_one_that_was_silent_and_dies_while_it_comes_back_did_not_die_of_what_it_had_then(world: World) -> None:
    job = world.submit()
    worker = world.spawn()
    world.work_until(worker, Phase.RUNNING)
    worker.frozen = True
    world.advance(world.policy.lease + 0.1)
    worker.frozen = False
    worker.attach()
    world.deliver_up(worker)  # it is told that it was given up, which does not reach it
    world.kill(worker)
    world.respawn(worker)
    world.deliver_all()
    assert world.store[job].kills == 0
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED


def test_i11_a_process_that_follows_a_silent_one_in_its_pod_says_that_it_had_died(world: World) -> None:
    """A model takes longer to load than a lease: else nobody who dies would ever be told from who is silent."""
    job = world.submit()
    worker = world.spawn()
    for kills in (1, 2):
        world.work_until(worker, Phase.RUNNING)
        world.kill(worker)
        world.advance(world.policy.lease * 3)
        assert world.store[job].kills == kills - 1
        worker = world.respawn(worker)
        world.deliver_all()
        assert world.store[job].kills == kills
    assert world.store[job].kind is FailureKind.POISON


def test_i11_a_pod_that_was_replaced_while_it_was_silent_may_have_been_taken_away(world: World) -> None:
    job = world.submit()
    worker = world.spawn()
    for attempt in range(3):
        world.work_until(worker, Phase.RUNNING)
        world.kill(worker)
        world.advance(world.policy.lease * 3)
        worker = world.respawn(worker, uid=f"another pod {attempt}")
    world.run()
    assert (world.store[job].status, world.store[job].kills) == (JobStatus.COMPLETED, 0)


def test_i11_a_job_during_which_a_worker_fell_silent_is_computed_alone(world: World) -> None:
    worker = world.spawn(capacity=2)
    world.submit()
    world.work_until(worker, Phase.RUNNING)
    worker.frozen = True
    world.advance(world.policy.lease + 0.1)
    world.spawn()
    assert [action.alone for action in world.said(Execute)] == [False, True]


def test_i11_a_job_during_which_a_worker_ended_is_computed_alone_so_that_no_neighbour_is_blamed(world: World) -> None:
    worker = world.spawn(capacity=2, slots=8)
    first, second = world.submit(), world.submit()
    world.deliver_all()
    for index in range(2):
        world.work(worker, index)
    world.deliver_all()
    world.kill(worker)
    world.respawn(worker)
    assert [world.store[job].kills for job in (first, second)] == [1, 1]
    again = [action for action in world.said(Execute) if action.attempt == 2]
    assert [(action.job_id, action.alone) for action in again] == [(first, True), (second, True)]
    world.run()
    assert [world.store[job].kills for job in (first, second)] == [1, 1]
    world.check_at_rest()


def test_i11_a_job_whose_stage_stood_still_has_cost_a_worker(world: World) -> None:
    job = world.submit()
    for kills in (1, 2):
        worker = world.spawn()
        world.work_until(worker, Phase.RUNNING)
        worker.drain()
        world.fail_task(worker, 0, FailureKind.STALLED)
        world.deliver_all()
        world.kill(worker)
        assert world.store[job].kills == kills, "its end is not counted once more"
    assert world.store[job].kind is FailureKind.POISON


def test_i11_the_count_of_kills_outlives_the_router(world: World) -> None:
    job = world.submit()
    worker = world.spawn()
    for _ in range(2):
        world.advance(world.policy.settle)
        world.deliver_all()
        world.work_until(worker, Phase.RUNNING)
        world.kill(worker)
        worker = world.respawn(worker)
        world.deliver_all()
        world.restart_router()
        world.tend(worker)
        world.deliver_all()
    assert world.store[job].kind is FailureKind.POISON


def test_work_handed_back_by_a_leaving_worker_is_not_blamed_and_not_lost(world: World) -> None:
    job = world.submit()
    leaving = world.spawn()
    leaving.drain()
    world.deliver_all()
    world.tend(leaving)
    staying = world.spawn()
    world.run()
    world.check_at_rest()
    assert world.store[job].kills == 0
    assert staying.computed[job, ENCODE] == 1


@pytest.mark.parametrize("role", list(Stage))
@pytest.mark.parametrize("after", range(12))
def test_i6_the_loss_of_any_worker_at_any_moment_loses_no_job(world: World, role: Stage, after: int) -> None:
    for stage in Stage:
        world.spawn(stage)
    for _ in range(3):
        world.submit()
    for _ in range(after):
        world.run_round()
    victim = next(worker for worker in world.workers if role in worker.stages)
    world.kill(victim)
    world.respawn(victim)
    world.run()
    world.check_at_rest()
    assert {job.status for job in world.store.values()} == {JobStatus.COMPLETED}


def test_a_router_that_was_stopped_itself_fences_nobody_for_that(world: World) -> None:
    world.spawn()
    world.spawn()
    world.now += world.policy.lease * 5
    world.tell(Tick())
    assert not list(world.said(PeerLost))
    world.advance(world.policy.lease / 8)
    for worker in world.workers:
        worker.frozen = True
    world.advance(world.policy.lease * 2)
    assert len(list(world.said(PeerLost))) == 2, "but it still notices who is silent afterwards"


def test_a_descriptor_reaches_the_consumer_as_the_producer_gave_it(world: World) -> None:
    encoder, _, _ = fleet(world)
    world.submit()
    finish_stage(world, encoder)
    (sent,) = [action.input for action in world.said(Execute) if action.stage is DENOISE]
    assert isinstance(sent, Where)
    assert sent.incarnation == encoder.incarnation
