"""I17: jobs that encode the same are encoded once, and whoever leads, fails or is lost, nobody waits for nothing."""

from __future__ import annotations

import pytest

from diffusion_router.core import FailureKind, JobStatus, ReleaseSlot, Stage
from unit.core.workers import Phase
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def statuses(world: World) -> list[JobStatus | None]:
    return [job.status for job in world.store.values()]


def encodings(world: World) -> int:
    return sum(count for (_, stage), count in world.computed.items() if stage is ENCODE)


def check_all_complete(world: World, *, jobs: int, encoded: int) -> None:
    """At the end every job is complete, so often was something encoded, and nothing is left over."""
    world.run()
    assert statuses(world) == [JobStatus.COMPLETED] * jobs
    assert encodings(world) == encoded
    world.check_at_rest()


def test_jobs_of_one_request_are_encoded_once_and_each_is_denoised(world: World) -> None:
    for stage in Stage:
        world.spawn(stage)
    for _ in range(4):
        world.submit(conditioning="a")
    world.submit(conditioning="b")
    world.submit()
    check_all_complete(world, jobs=6, encoded=3)


def test_a_slot_stays_until_the_last_of_them_has_read_it(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE, capacity=1)
    world.spawn(DECODE)
    for _ in range(3):
        world.submit(conditioning="a")
    while sum(count for (_, stage), count in denoiser.computed.items() if stage is DENOISE) < 3:
        assert len(encoder.outputs) == (1 if encodings(world) else 0) or not encoder.outputs
        assert not [release for release in world.said(ReleaseSlot) if release.incarnation == encoder.incarnation]
        world.run_round()
        world.advance(0.1)
    world.run()
    assert encodings(world) == 1
    world.check_at_rest()


def test_one_that_comes_while_another_is_denoised_is_not_encoded_again(world: World) -> None:
    world.spawn(ENCODE)
    denoiser = world.spawn(DENOISE)
    world.submit(conditioning="a")
    world.run_to(denoiser, Phase.RUNNING)
    world.submit(conditioning="a")
    world.spawn(DECODE)
    world.run()
    assert encodings(world) == 1
    world.check_at_rest()


def test_one_that_comes_when_all_is_released_is_encoded_itself(world: World) -> None:
    world.spawn()
    for _ in range(2):
        world.submit(conditioning="a")
        world.run()
    assert encodings(world) == 2
    world.check_at_rest()


def test_when_the_one_that_encodes_is_cancelled_the_next_encodes(world: World) -> None:
    encoder = world.spawn(ENCODE)
    first, *_ = [world.submit(conditioning="a") for _ in range(3)]
    world.work_until(encoder, Phase.RUNNING)
    world.cancel(first)
    world.spawn(DENOISE)
    world.spawn(DECODE)
    world.run()
    assert statuses(world) == [JobStatus.CANCELLED, JobStatus.COMPLETED, JobStatus.COMPLETED]
    assert encodings(world) == 2
    world.check_at_rest()


def test_one_that_waits_can_be_cancelled_without_a_task(world: World) -> None:
    encoder = world.spawn(ENCODE)
    _, second = (world.submit(conditioning="a") for _ in range(2))
    world.work_until(encoder, Phase.RUNNING)
    world.cancel(second)
    world.deliver_all()
    assert statuses(world)[1] is JobStatus.CANCELLED
    assert len(encoder.tasks) == 1


def test_each_fails_by_its_own_rules_where_encoding_fails(world: World) -> None:
    encoder = world.spawn(ENCODE)
    for _ in range(2):
        world.submit(conditioning="a")
    for _ in range(2):
        world.work_until(encoder, Phase.RUNNING)
        world.fail_task(encoder, 0, FailureKind.INVALID_REQUEST)
        world.deliver_all()
    assert [job.kind for job in world.store.values()] == [FailureKind.INVALID_REQUEST] * 2


def test_what_is_lost_with_its_encoder_is_encoded_once_more_for_all(world: World) -> None:
    encoder = world.spawn(ENCODE)
    for _ in range(3):
        world.submit(conditioning="a")
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.deliver_all()
    assert len(encoder.outputs) == 1
    world.kill(encoder)
    world.respawn(encoder)
    world.spawn(DENOISE)
    world.spawn(DECODE)
    check_all_complete(world, jobs=3, encoded=2)


def test_an_output_that_cannot_be_pulled_is_not_shared_any_more(world: World) -> None:
    world.spawn(ENCODE)
    denoiser = world.spawn(DENOISE)
    world.spawn(DECODE)
    world.submit(conditioning="a")
    for _ in range(world.policy.max_transfer_failures):
        world.run_to(denoiser, Phase.PULLING)
        world.deliver_all()
        world.fail_task(denoiser, 0, FailureKind.TRANSFER)
        world.deliver_all()
        world.advance(3.0)
    check_all_complete(world, jobs=1, encoded=2)


def test_a_restarted_router_encodes_nothing_again_that_a_worker_keeps(world: World) -> None:
    encoder, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    for _ in range(3):
        world.submit(conditioning="a")
    world.run_to(denoiser, Phase.PULLING)
    world.restart_router()
    for worker in (encoder, denoiser):
        worker.attach()
    world.deliver_all()
    world.spawn(DECODE)
    check_all_complete(world, jobs=3, encoded=1)


def test_after_a_restart_one_that_encodes_already_waits_for_nobody(world: World) -> None:
    lost, denoiser = world.spawn(ENCODE), world.spawn(DENOISE)
    world.submit(conditioning="a")
    world.run_to(denoiser, Phase.RUNNING)
    world.kill(lost)
    world.advance(world.policy.lease + 1)
    encoder = world.spawn(ENCODE)
    world.submit(conditioning="a")
    world.work_until(encoder, Phase.RUNNING)
    world.restart_router()
    for worker in (encoder, denoiser):
        worker.attach()
        world.deliver_all()
    world.spawn(DECODE)
    check_all_complete(world, jobs=2, encoded=2)


def test_the_stage_table_says_whose_encoding_was_shared(world: World) -> None:
    encoder = world.spawn(ENCODE)
    jobs = [world.submit(conditioning="a") for _ in range(2)]
    world.work_until(encoder, Phase.RUNNING)
    world.work(encoder)
    world.deliver_all()
    records = [world.core.jobs[job].records for job in jobs]
    assert [[(record.stage, record.shared) for record in each] for each in records] == [
        [(ENCODE, False)],
        [(ENCODE, True)],
    ]
