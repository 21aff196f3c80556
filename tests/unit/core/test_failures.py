"""Tasks that fail although nobody died: who tries again, and when it is over."""

from __future__ import annotations

import pytest

from diffusion_router.core import CancelTask, Execute, FailureKind, JobEnded, JobStatus, Policy, ReleaseSlot, Stage
from unit.core.workers import Phase, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def encode(world: World, encoder: Worker) -> None:
    while not encoder.outputs:
        world.work(encoder)
        world.deliver_all()


def test_a_model_error_goes_to_another_peer(world: World) -> None:
    first = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(first, Phase.RUNNING)
    second = world.spawn(ENCODE)
    world.fail_task(first, 0, FailureKind.MODEL_ERROR)
    world.deliver_all()
    world.advance(1.0)
    world.deliver_all()
    assert [held.execute.job_id for held in second.tasks.values()] == [job]


def test_a_model_error_is_tried_again_on_the_same_peer_where_there_is_no_other(world: World) -> None:
    only = world.spawn()
    job = world.submit()
    world.work_until(only, Phase.RUNNING)
    world.fail_task(only, 0, FailureKind.MODEL_ERROR)
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED


def test_a_second_model_error_fails_the_job_with_the_models_words(world: World) -> None:
    workers = [world.spawn(ENCODE), world.spawn(ENCODE), world.spawn(ENCODE)]
    job = world.submit()
    for _ in range(2):
        world.advance(1.0)
        world.deliver_all()
        (worker,) = [worker for worker in workers if worker.tasks]
        world.work_until(worker, Phase.RUNNING)
        world.fail_task(worker, 0, FailureKind.MODEL_ERROR)
        world.deliver_all()
    stored = world.store[job]
    assert (stored.status, stored.kind, stored.message) == (JobStatus.FAILED, FailureKind.MODEL_ERROR, "model_error")
    assert sum(bool(worker.given) for worker in workers) == 2
    world.check_at_rest()


def test_a_peer_of_another_generation_is_no_other_peer(world: World) -> None:
    """Else a job that failed once on the last denoiser of its generation would wait for ever."""
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    world.spawn(DECODE)
    job = world.submit()
    encode(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    for stage in Stage:
        world.spawn(stage, generation="g2")
    world.fail_task(denoiser, 0, FailureKind.MODEL_ERROR)
    world.run(rounds=40)
    assert world.store[job].status is JobStatus.COMPLETED


@pytest.mark.parametrize("kind", [FailureKind.INVALID_REQUEST, FailureKind.TOO_LARGE])
def test_what_no_retry_can_mend_fails_at_once(world: World, kind: FailureKind) -> None:
    worker = world.spawn()
    job = world.submit()
    world.work_until(worker, Phase.RUNNING)
    world.fail_task(worker, 0, kind)
    world.deliver_all()
    assert world.store[job].kind is kind
    assert len(list(world.said(Execute))) == 1
    world.check_at_rest()


def test_an_output_that_cannot_be_pulled_is_made_anew(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    world.spawn(DECODE)
    job = world.submit()
    for _ in range(2):
        encode(world, encoder)
        world.advance(3.0)
        world.deliver_all()
        world.work_until(denoiser, Phase.PULLING)
        world.fail_task(denoiser, 0, FailureKind.TRANSFER)
        world.deliver_all()
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert world.computed[job, ENCODE] == 2
    assert world.computed[job, DENOISE] == 1


def test_a_pull_that_failed_goes_to_another_consumer_where_there_is_one(world: World) -> None:
    encoder, broken, sound = world.spawn(ENCODE), world.spawn(DENOISE), world.spawn(DENOISE)
    world.submit()
    encode(world, encoder)
    world.work_until(broken, Phase.PULLING)
    world.fail_task(broken, 0, FailureKind.TRANSFER)
    world.deliver_all()
    world.advance(3.0)
    world.deliver_all()
    assert sound.tasks
    assert not broken.tasks


def test_a_job_whose_pulls_always_fail_ends_with_the_number_of_tries(world: World) -> None:
    world.spawn(ENCODE)
    denoiser = world.spawn(DENOISE)
    job = world.submit()
    for _ in range(100):
        world.fail_task(denoiser, 0, FailureKind.TRANSFER)
        world.run_round() if not denoiser.tasks else world.deliver_all()
        world.advance(1.0)
    stored = world.store[job]
    assert stored.kind is FailureKind.RETRIES_EXHAUSTED
    assert stored.message == "5 tasks failed, the last one with TRANSFER: transfer"
    world.check_at_rest()


def test_a_worker_that_gives_everything_back_is_not_asked_in_a_loop(world: World) -> None:
    worker = world.spawn(ENCODE)
    world.submit()
    for _ in range(50):
        world.deliver_all()
        for held in list(worker.tasks.values()):
            worker.end_task(held, FailureKind.HANDED_BACK)
        world.advance(0.01)
    assert len(list(world.said(Execute))) <= 7


def test_a_job_that_is_not_done_by_its_deadline_fails_and_its_task_is_stopped(world: World) -> None:
    worker = world.spawn(DENOISE, ENCODE)
    job = world.submit(deadline=5.0)
    world.work_until(worker, Phase.RUNNING)
    world.advance(4.9)
    assert world.store[job].status is None
    world.advance(0.2)
    world.deliver_all()
    assert world.store[job].kind is FailureKind.DEADLINE
    assert "ENCODE" in world.store[job].message
    world.run()
    world.check_at_rest()


def test_a_job_for_which_nobody_has_the_role_waits_until_its_deadline(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit(deadline=30.0)
    encode(world, encoder)
    world.advance(31.0)
    world.run()
    assert world.store[job].kind is FailureKind.DEADLINE
    assert not encoder.outputs


def test_cancel_stops_a_running_task_at_its_next_step_and_gives_slot_and_credit_back(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    job = world.submit()
    encode(world, encoder)
    world.work_until(denoiser, Phase.RUNNING)
    world.cancel(job)
    world.deliver_all()
    assert world.store[job].status is JobStatus.CANCELLED
    assert encoder.outputs, "the consumer still owns the task"
    world.work(denoiser)
    world.deliver_all()
    world.check_at_rest()
    assert [peer.credits for peer in world.core.peers.values()] == [2, 2]


def test_cancel_of_a_waiting_job_costs_nothing(world: World) -> None:
    job = world.submit()
    world.cancel(job)
    world.spawn()
    world.run()
    world.check_at_rest()
    assert not list(world.said(Execute))


def test_a_cancel_that_comes_after_the_end_changes_nothing(world: World) -> None:
    world.spawn()
    job = world.submit()
    world.run()
    world.cancel(job)
    assert [end.status for end in world.said(JobEnded)] == [JobStatus.COMPLETED]


def test_a_stage_that_is_done_while_its_cancel_is_on_the_way_leaves_nothing(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.cancel(job)
    assert list(world.said(CancelTask))
    world.deliver_all()
    assert [end.status for end in world.said(JobEnded)] == [JobStatus.CANCELLED]
    world.check_at_rest()


def test_i1_a_report_that_arrives_twice_counts_once(world: World) -> None:
    world.spawn()
    job = world.submit()
    for _ in range(60):
        world.run_round()
        for index in range(10):
            world.deliver_again(index)
    world.deliver_all()
    assert world.store[job].status is JobStatus.COMPLETED
    assert len(list(world.said(JobEnded))) == 1
    world.check_at_rest()


def test_a_result_is_kept_by_its_worker_until_the_store_has_it(world: World) -> None:
    worker = world.spawn()
    world.submit()
    while not world.to_record:
        world.work(worker)
        world.deliver_up(worker, 5)
        world.deliver_down(worker, 5)
    decoded = next(task_id for task_id, result in worker.outputs.items() if result.stage is DECODE)
    assert decoded not in {action.task_id for action in world.said(ReleaseSlot)}
    world.record_one()
    assert decoded in {action.task_id for action in world.said(ReleaseSlot)}


def test_i4_credits_are_capacity_and_prefetch_less_what_is_owned() -> None:
    world = World(Policy(prefetch=2))
    worker = world.spawn(ENCODE, capacity=3)
    peer = world.core.peers[worker.incarnation]
    assert peer.credits == 5
    for count in range(1, 8):
        world.submit()
        assert peer.credits == max(0, 5 - count)
    world.run()
    world.cut(worker)
    assert peer.credits == 0, "nothing can be sent to it"
    worker.attach()
    world.deliver_up(worker)
    assert peer.credits == 5 - len(peer.tasks)
