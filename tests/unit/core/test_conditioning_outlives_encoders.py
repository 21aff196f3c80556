"""I17: what encoders keep for jobs to come is taken over when they leave, also by denoisers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from diffusion_router.core import (
    CancelTask,
    Eviction,
    Execute,
    FailureKind,
    JobStatus,
    PeerDrained,
    ReleaseSlot,
    RouterStops,
    SharesSet,
    Stage,
)
from unit.core.workers import Phase, Worker
from unit.core.world import POLICY, World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def spawn(world: World, *stages: Stage, **settings: object) -> Worker:
    keeps = DENOISE in stages and ENCODE not in stages
    share = {"cache_share": 0.5} if ENCODE in stages else {}
    return world.spawn(*stages, **{"resumable": True, "copies": True, "keeps_conditioning": keeps, **share, **settings})


def ask(world: World, *prompts: str) -> None:
    """One after the other: each ends before the next comes."""
    for prompt in prompts:
        job = world.submit(conditioning=prompt)
        world.run()
        assert world.store[job].status is JobStatus.COMPLETED
        world.check_at_rest()


def leave(world: World, worker: Worker) -> None:
    """It is told to leave and does, without any time passing."""
    worker.drain()
    for _ in range(40):
        world.deliver_all()
        for other in world.workers:
            for index in range(len(other.tasks)):
                world.work(other, index)
    world.tend(worker)
    assert not worker.alive


def encodings(world: World) -> int:
    return sum(count for (_, stage), count in world.computed.items() if stage is ENCODE)


def evictions(world: World) -> Counter[Eviction]:
    return +world.core.reuse.evictions


def kept(worker: Worker) -> set[str]:
    return {result.report.content.removeprefix("ENCODE of ") for result in worker.outputs.values()}


def copies(world: World) -> list[Execute]:
    return [action for action in world.said(Execute) if action.copy]


def test_without_an_encoder_those_are_served_whose_conditioning_is_kept(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a", "b")
    leave(world, encoder)
    assert kept(denoiser) == {"a", "b"}
    ask(world, "a", "b", "a")
    assert encodings(world) == 2
    assert not evictions(world)
    unknown = world.submit(conditioning="c")
    ask_again = world.submit(conditioning="b")
    world.run(rounds=20)
    assert world.store[ask_again].status is JobStatus.COMPLETED
    assert world.store[unknown].status is None, "it waits for an encoder"
    spawn(world, ENCODE)
    world.run()
    assert world.store[unknown].status is JobStatus.COMPLETED
    ask(world, "a")
    assert encodings(world) == 3
    world.check_at_rest()


def test_another_encoder_takes_it_over_rather_than_a_denoiser(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    other = spawn(world, ENCODE)
    leave(world, encoder)
    assert (kept(other), kept(denoiser)) == ({"a"}, set())
    ask(world, "a")
    assert encodings(world) == 1


@pytest.mark.parametrize(
    "settings",
    [{"keeps_conditioning": False}, {"pulls": "rdma"}, {"slots": 2}],
    ids=["an older version, beside one of another generation", "its own can't pull from it", "no room beside its work"],
)
def test_it_is_let_go_at_once_where_nobody_can_take_it_over(world: World, settings: dict[str, object]) -> None:
    encoder = spawn(world, ENCODE, mode=settings.get("pulls", "tcp"))
    spawn(world, DENOISE, **settings)
    spawn(world, DECODE)
    for stage in Stage:
        spawn(world, stage, generation="g2")
    world.tell(SharesSet({"g1": 100, "g2": 0}))
    ask(world, "a")
    leave(world, encoder)
    assert not copies(world)
    assert evictions(world) == {Eviction.GONE: 1}


def test_those_used_last_are_taken_over_first_and_go_last() -> None:
    """Of six slots a denoiser gives half to what it keeps for others, and has two for its own work."""
    world = World(replace(POLICY, passed_on_at_once=1))
    encoder = spawn(world, ENCODE, slots=16)
    denoiser = spawn(world, DENOISE, slots=6)
    spawn(world, DECODE)
    ask(world, "a", "b", "c", "d", "e", "b")
    leave(world, encoder)
    assert kept(denoiser) == {"b", "e", "d"}
    assert evictions(world) == {Eviction.GONE: 2}
    peer = world.core.peers[denoiser.incarnation]
    order = [output.report.content.removeprefix("ENCODE of ") for output in peer.cached.values()]
    assert order == ["d", "e", "b"]


def test_a_denoiser_keeps_by_the_share_of_its_encoders(world: World) -> None:
    encoder = spawn(world, ENCODE, slots=32, cache_share=0.25)
    denoiser = spawn(world, DENOISE, slots=8)
    spawn(world, DECODE)
    ask(world, "a", "b", "c")
    leave(world, encoder)
    assert len(kept(denoiser)) == 2


def test_the_share_is_one_of_bytes_too(world: World) -> None:
    """Of 8 bytes, half: outputs take 1 to 3 each."""
    encoder = spawn(world, ENCODE, slots=16, pool_bytes=64)
    denoiser = spawn(world, DENOISE, slots=16, pool_bytes=8)
    spawn(world, DECODE)
    ask(world, *"abcdef")
    leave(world, encoder)
    assert denoiser.outputs
    assert sum(result.nbytes for result in denoiser.outputs.values()) <= 4


def test_what_is_taken_over_gives_way_to_denoisings(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE, slots=4)
    spawn(world, DECODE)
    ask(world, "a", "b")
    leave(world, encoder)
    assert kept(denoiser) == {"a", "b"}
    spawn(world, ENCODE, cache_share=0.0)
    for prompt in "cdef":
        world.submit(conditioning=prompt)
    world.run()
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    world.check_at_rest()


def test_it_binds_no_job_to_the_denoiser_that_keeps_it(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoisers = [spawn(world, DENOISE), spawn(world, DENOISE)]
    spawn(world, DECODE)
    ask(world, "a")
    leave(world, encoder)
    for _ in range(2):
        world.submit(conditioning="a")
    world.deliver_all()
    assert [len(denoiser.tasks) for denoiser in denoisers] == [1, 1]
    world.run()
    world.check_at_rest()
    assert encodings(world) == 1


def test_a_denoiser_that_leaves_hands_it_on(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    leave(world, encoder)
    other = spawn(world, DENOISE)
    leave(world, denoiser)
    assert kept(other) == {"a"}
    ask(world, "a")
    assert encodings(world) == 1


def test_one_that_is_killed_takes_with_it_what_it_kept_and_nothing_else(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    leave(world, encoder)
    encoder = spawn(world, ENCODE)
    ask(world, "b")
    world.kill(encoder)
    world.advance(world.policy.lease + 1)
    assert kept(denoiser) == {"a"}
    ask(world, "a")
    assert encodings(world) == 2
    assert evictions(world) == {Eviction.GONE: 1}


def test_conditioning_that_jobs_wait_with_waits_at_a_denoiser() -> None:
    """Its only encoder leaves, the only denoiser is busy: the encoder does not wait for it."""
    world = World(replace(POLICY, prefetch=0))
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    waiting = [world.submit(conditioning="b") for _ in range(3)]
    world.run_to(encoder, Phase.RUNNING)
    world.work(encoder)
    leave(world, encoder)
    world.run()
    assert all(world.store[job].status is JobStatus.COMPLETED for job in waiting)
    world.check_at_rest()
    assert encodings(world) == 2


def test_an_encoder_waits_only_so_long_for_what_no_job_needs() -> None:
    world = World(replace(POLICY, lease=600.0))
    encoder = spawn(world, ENCODE, slots=32)
    denoiser = spawn(world, DENOISE, slots=32)
    spawn(world, DECODE)
    ask(world, *"abcdefgh")
    encoder.drain()
    world.deliver_all()
    assert len(copies(world)) == world.policy.passed_on_at_once
    until = world.now + world.policy.passing_on
    assert {copy.deadline for copy in copies(world)} == {until}
    assert world.core.wakeup() == until
    world.work(denoiser)
    world.deliver_all()
    assert len(copies(world)) == world.policy.passed_on_at_once + 1
    while denoiser.tasks and world.now < until:
        world.advance(0.5)
        world.deliver_all()
    assert len(encoder.outputs) == world.policy.passed_on_at_once, "what is being read stays"
    for held in list(denoiser.tasks.values()):
        # As a worker does when its time is over.
        denoiser.end_task(held, FailureKind.DEADLINE)
    world.deliver_all()
    assert not encoder.outputs
    assert len(kept(denoiser)) == 1
    assert evictions(world) == {Eviction.GONE: 7}
    assert len(copies(world)) == world.policy.passed_on_at_once + 1


def test_what_is_read_for_longer_is_not_kept_then(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    world.submit(conditioning="a")
    world.run_to(denoiser, Phase.PULLING)
    encoder.drain()
    world.deliver_all()
    world.advance(world.policy.passing_on)
    world.run()
    assert not encoder.alive
    assert not copies(world)
    assert not denoiser.outputs


def test_a_hit_leaves_a_denoiser_the_room_to_denoise(world: World) -> None:
    """Of four slots two are for what it keeps, and one that computes takes the others."""
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE, slots=4)
    spawn(world, DECODE)
    ask(world, "a", "b")
    leave(world, encoder)
    spawn(world, ENCODE, slots=1)
    world.submit(conditioning="c")
    world.run_to(denoiser, Phase.RUNNING)
    world.deliver_all()
    world.submit(conditioning="a")
    assert evictions(world) == {Eviction.ROOM: 1}
    world.run()
    world.check_at_rest()
    assert encodings(world) == 4


def test_in_a_pool_that_turns_out_small_who_waits_with_it_is_encoded_anew(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE, slots=8, real_slots=2)
    spawn(world, DECODE)
    ask(world, "a", "b")
    leave(world, encoder)
    assert kept(denoiser) == {"a", "b"}
    for prompt in "ab":
        world.submit(conditioning=prompt)
    world.run(rounds=20)
    spawn(world, ENCODE, cache_share=0.0)
    world.run()
    world.check_at_rest()


def test_what_could_not_be_copied_is_not_tried_again(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    encoder.drain()
    world.deliver_all()
    denoiser.end_task(next(iter(denoiser.tasks.values())), FailureKind.POOL_FULL)
    world.deliver_all()
    assert len(copies(world)) == 1
    assert not encoder.outputs
    assert evictions(world) == {Eviction.GONE: 1}


def test_a_job_that_comes_while_it_is_copied_is_served(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    encoder.drain()
    world.deliver_all()
    world.submit(conditioning="a")
    world.run()
    assert not encoder.alive
    world.check_at_rest()
    assert kept(denoiser) == {"a"}
    assert encodings(world) == 1


def test_what_jobs_wait_with_is_taken_over_before_what_none_needs() -> None:
    world = World(replace(POLICY, prefetch=0))
    encoder = spawn(world, ENCODE, slots=16)
    denoiser = spawn(world, DENOISE, slots=16)
    spawn(world, DECODE)
    ask(world, *"abcd")
    world.submit()
    world.run_to(denoiser, Phase.RUNNING)
    waiting = world.submit(conditioning="e")
    world.run_to(encoder, Phase.RUNNING)
    world.work(encoder)
    world.deliver_all()
    encoder.drain()
    world.deliver_all()
    assert copies(world)[0].job_id == waiting


def test_a_router_that_stops_has_neither_side_of_a_copy_wait_for_it(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    encoder.drain()
    world.deliver_all()
    (copy,) = copies(world)
    # Not by the world, to which this one has been read before it is released: by one that leaves.
    actions = world.core.handle(RouterStops(), world.now)
    assert CancelTask(denoiser.incarnation, copy.task_id) in actions
    assert {(one.incarnation, one.task_id) for one in actions if isinstance(one, ReleaseSlot)} == {
        (denoiser.incarnation, copy.task_id),
        (encoder.incarnation, copy.input.task_id),
    }


def test_who_leaves_with_a_copy_that_never_came_holds_nobody_up(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    encoder.drain()
    world.deliver_up(encoder, 99)
    (copy,) = copies(world)
    # It left before the command came to it.
    world.tell(PeerDrained(denoiser.incarnation))
    assert copy.input.task_id in {one.task_id for one in world.said(ReleaseSlot)}


def test_a_router_that_stops_waits_for_no_reader_that_is_lost(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    encoder.drain()
    world.deliver_all()
    (copy,) = copies(world)
    world.kill(denoiser)
    world.respawn(denoiser)
    world.deliver_all()
    assert copy.input.task_id not in {one.task_id for one in world.said(ReleaseSlot)}, "it might still read"
    released = [one for one in world.core.handle(RouterStops(), world.now) if isinstance(one, ReleaseSlot)]
    assert copy.input.task_id in {one.task_id for one in released}


def test_a_restarted_router_has_it_released(world: World) -> None:
    encoder = spawn(world, ENCODE)
    denoiser = spawn(world, DENOISE)
    spawn(world, DECODE)
    ask(world, "a")
    leave(world, encoder)
    world.restart_router()
    for worker in world.workers:
        worker.attach()
    world.deliver_all()
    world.advance(world.policy.settle + world.policy.grace + 1)
    world.deliver_all()
    assert not denoiser.outputs
