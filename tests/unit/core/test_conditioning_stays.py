"""I17: what encoders made stays for jobs to come, within its share, and is never in the way of work."""

from __future__ import annotations

from collections import Counter

import pytest

from diffusion_router.core import (
    Eviction,
    Execute,
    FailureKind,
    JobStatus,
    Lookup,
    PeerHeartbeat,
    ReleaseSlot,
    RouterStops,
    SharesSet,
    Stage,
)
from unit.core.workers import Phase, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def ask(world: World, *prompts: str) -> None:
    """One after the other: each ends before the next comes."""
    for prompt in prompts:
        job = world.submit(conditioning=prompt)
        world.run()
        assert world.store[job].status is JobStatus.COMPLETED
        world.check_at_rest()


def rest_of(world: World) -> Worker:
    """Where what is encoded elsewhere is denoised and decoded."""
    return world.spawn(DENOISE, DECODE)


def encodings(world: World) -> int:
    return sum(count for (_, stage), count in world.computed.items() if stage is ENCODE)


def evictions(world: World) -> Counter[Eviction]:
    return +world.core.reuse.evictions


def test_what_was_made_for_one_serves_one_that_comes_when_it_has_ended(world: World) -> None:
    world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a", "b", "a", "a", "b")
    assert encodings(world) == 2
    assert world.core.reuse.lookups == {Lookup.MISS: 2, Lookup.HIT: 3}
    assert not evictions(world)


def test_the_stage_table_says_that_a_hit_was_shared(world: World) -> None:
    world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    job = world.submit(conditioning="a")
    records = world.core.jobs[job].records
    assert [(record.stage, record.shared) for record in records[:1]] == [(ENCODE, True)]


def test_a_hit_is_denoised_while_all_encoders_are_busy(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    denoiser = rest_of(world)
    ask(world, "a")
    world.submit(conditioning="b")
    world.work_until(encoder, Phase.RUNNING)
    hit = world.submit(conditioning="a")
    world.work_until(denoiser, Phase.RUNNING)
    assert [held.execute.job_id for held in denoiser.tasks.values()] == [hit]
    assert len(encoder.tasks) == 1


def test_jobs_without_a_key_leave_nothing(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=1.0)
    rest_of(world)
    ask(world, "", "")
    assert not encoder.outputs
    assert not world.core.reuse.lookups


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.2, 1), (0.5, 2), (1.0, 4)])
def test_the_one_longest_unused_goes_when_the_share_is_full(world: World, share: float, kept: int) -> None:
    encoder = world.spawn(ENCODE, slots=5, cache_share=share)
    rest_of(world)
    ask(world, "a", "b", "a", "c", "d")
    order = ["b", "a", "c", "d"] if kept > 1 else ["a", "b", "c", "d"]
    held = [result.report.content.removeprefix("ENCODE of ") for result in encoder.outputs.values()]
    assert sorted(held) == sorted(order[4 - kept :])
    assert set(evictions(world)) <= {Eviction.SHARE}


def test_the_share_is_one_of_bytes_too(world: World) -> None:
    """Of 8 slots and 8 bytes, half: outputs take 1 to 3 bytes each."""
    encoder = world.spawn(ENCODE, slots=8, pool_bytes=8, cache_share=0.5)
    rest_of(world)
    ask(world, *"abcdef")
    assert 1 <= len(encoder.outputs) <= 3
    assert sum(result.nbytes for result in encoder.outputs.values()) <= 4


def test_tasks_take_every_slot_of_a_pool_that_is_full_of_what_is_kept(world: World) -> None:
    encoder = world.spawn(ENCODE, slots=2, cache_share=1.0)
    denoiser = rest_of(world)
    ask(world, "a", "b")
    assert len(encoder.outputs) == 2
    world.kill(denoiser)
    world.advance(world.policy.lease + 1)
    for prompt in "cd":
        world.submit(conditioning=prompt)
    sent = [action for action in world.log if isinstance(action, Execute | ReleaseSlot)][-4:]
    assert [type(action) for action in sent] == [ReleaseSlot, Execute] * 2, "room is made before the task is sent"
    assert evictions(world) == {Eviction.ROOM: 2}
    rest_of(world)
    world.run()
    world.check_at_rest()
    assert encodings(world) == 4


def test_bytes_that_tasks_are_known_to_need_are_free(world: World) -> None:
    """Six bytes hold what was made for the first three; the largest took 3, and as many may be needed now."""
    encoder = world.spawn(ENCODE, slots=8, pool_bytes=6, cache_share=1.0)
    rest_of(world)
    ask(world, "a", "b", "c")
    kept = sum(result.nbytes for result in encoder.outputs.values())
    world.submit(conditioning="d")
    world.deliver_all()
    assert kept > 3
    assert sum(result.nbytes for result in encoder.outputs.values()) <= 3


def test_a_pool_that_is_full_of_what_is_kept_is_not_held_to_be_small(world: World) -> None:
    encoder = world.spawn(ENCODE, slots=8, real_slots=2, cache_share=1.0)
    rest_of(world)
    ask(world, "a", "b", "c")
    peer = world.core.peers[encoder.incarnation]
    assert peer.room == peer.slots
    assert evictions(world) == {Eviction.ROOM: 2}
    retry = [action for action in world.said(Execute) if action.stage is ENCODE][-1]
    assert retry.attempt == 2


def test_an_encoder_that_leaves_waits_for_nothing_that_is_kept(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a", "b")
    encoder.drain()
    world.deliver_all()
    assert not encoder.outputs
    assert evictions(world) == {Eviction.GONE: 2}


def test_an_encoder_that_leaves_keeps_what_is_read_until_it_is(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    denoiser = rest_of(world)
    ask(world, "a")
    world.submit(conditioning="a")
    world.run_to(denoiser, Phase.PULLING)
    encoder.drain()
    world.deliver_all()
    assert len(encoder.outputs) == 1
    world.run()
    assert not encoder.alive
    assert encodings(world) == 1
    world.check_at_rest()


def test_what_is_kept_is_lost_with_its_encoder(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    world.kill(encoder)
    world.respawn(encoder)
    ask(world, "a", "a")
    assert encodings(world) == 2
    assert evictions(world) == {Eviction.GONE: 1}


def test_nobody_begins_with_what_is_out_of_reach(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    world.cut(encoder)
    other = world.spawn(ENCODE, cache_share=0.5)
    job = world.submit(conditioning="a")
    world.work_until(other, Phase.RUNNING)
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED
    assert list(encoder.outputs) == [], "it is told to release it when it is back"
    world.check_at_rest()


def test_a_short_break_of_the_stream_costs_nothing_that_is_kept(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    world.cut(encoder)
    encoder.attach()
    world.deliver_all()
    ask(world, "a")
    assert encodings(world) == 1


def test_a_restarted_router_keeps_nothing_of_what_it_knows_no_key(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    world.restart_router()
    for worker in world.workers:
        worker.attach()
    world.deliver_all()
    world.advance(world.policy.settle + world.policy.grace + 1)
    world.deliver_all()
    assert not encoder.outputs
    ask(world, "a")


def test_what_is_kept_is_not_taken_by_jobs_that_begin_in_another_generation(world: World) -> None:
    old = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    world.tell(SharesSet({"g1": 100}))
    ask(world, "a")
    for stages in ((ENCODE,), (DENOISE, DECODE)):
        world.spawn(*stages, generation="g2", cache_share=0.5)
    world.tell(SharesSet({"g1": 0, "g2": 100}))
    world.deliver_all()
    assert not old.outputs
    assert evictions(world) == {Eviction.ELSEWHERE: 1}
    ask(world, "a", "a")
    assert encodings(world) == 2


def test_what_is_kept_is_of_no_use_once_nobody_could_go_on_with_it(world: World) -> None:
    world.spawn(ENCODE, cache_share=0.5)
    denoiser = rest_of(world)
    ask(world, "a")
    world.spawn(generation="g2")
    denoiser.drain()
    world.deliver_all()
    job = world.submit(conditioning="a")
    assert evictions(world) == {Eviction.ELSEWHERE: 1}
    assert [record.shared for record in world.core.jobs[job].records] == [False]
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED


def test_where_a_worker_denoises_too_nobody_waits_for_it_while_another_is_idle(world: World) -> None:
    holder = world.spawn(cache_share=0.5)
    ask(world, "a")
    long = world.submit()
    world.run_to(holder, Phase.RUNNING)
    other = world.spawn(cache_share=0.5)
    job = world.submit(conditioning="a")
    assert [held.execute.job_id for held in holder.tasks.values()] == [long]
    world.deliver_all()
    assert [held.execute.job_id for held in other.tasks.values()] == [job]
    assert evictions(world) == {Eviction.ELSEWHERE: 1}


def test_where_all_that_denoise_too_are_busy_it_is_encoded_by_none(world: World) -> None:
    holder = world.spawn(cache_share=0.5)
    ask(world, "a")
    world.submit()
    world.run_to(holder, Phase.RUNNING)
    world.submit(conditioning="a")
    world.run()
    assert encodings(world) == 2
    world.check_at_rest()


def test_a_colocated_pool_gives_way_to_what_is_denoised(world: World) -> None:
    """Three slots, all for what is kept; a job needs two of them, for what is encoded and for what is denoised."""
    worker = world.spawn(slots=3, cache_share=1.0)
    ask(world, "a", "b", "c", "d", "a")
    assert evictions(world)[Eviction.ROOM]
    assert len(worker.outputs) <= 3


def test_hits_leave_a_colocated_pool_the_slot_that_empties_it(world: World) -> None:
    """One of two slots is for what is kept; a second input, taken up beside the first, would leave none to denoise."""
    worker = world.spawn(slots=2, cache_share=0.5)
    ask(world, "b")
    world.submit(conditioning="a")
    world.work_until(worker, Phase.RUNNING)
    world.submit(conditioning="b")
    world.run()
    assert all(job.status is JobStatus.COMPLETED for job in world.store.values())
    world.check_at_rest()


def test_a_poison_prompt_takes_nobody_along(world: World) -> None:
    """Whoever leads when workers die is to blame; those who waited go on with their own count."""
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    leader, *others = (world.submit(conditioning="a") for _ in range(3))
    for _ in range(world.policy.max_kills):
        world.work_until(encoder, Phase.RUNNING)
        world.kill(encoder)
        encoder = world.respawn(encoder)
    world.run()
    assert world.store[leader].kind is FailureKind.POISON
    assert [(world.store[job].status, world.store[job].kills) for job in others] == [(JobStatus.COMPLETED, 0)] * 2
    world.check_at_rest()


def test_each_that_waits_is_tried_again_by_its_own_rules(world: World) -> None:
    """One fails for good after two errors of the model; the next leads with tries of its own."""
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    first, second = (world.submit(conditioning="a") for _ in range(2))
    for _ in range(world.policy.max_model_errors):
        world.work_until(encoder, Phase.RUNNING)
        world.fail_task(encoder, 0, FailureKind.MODEL_ERROR)
        world.deliver_all()
        world.advance(world.policy.max_backoff)
    world.run()
    assert (world.store[first].kind, world.store[second].status) == (FailureKind.MODEL_ERROR, JobStatus.COMPLETED)


def test_a_hit_that_can_not_be_pulled_is_made_anew_once(world: World) -> None:
    world.spawn(ENCODE, cache_share=0.5)
    denoiser = rest_of(world)
    ask(world, "a")
    job = world.submit(conditioning="a")
    for _ in range(world.policy.max_transfer_failures):
        world.run_to(denoiser, Phase.PULLING)
        world.deliver_all()
        world.fail_task(denoiser, 0, FailureKind.TRANSFER)
        world.deliver_all()
        world.advance(world.policy.max_backoff)
    world.run()
    assert world.store[job].status is JobStatus.COMPLETED
    assert encodings(world) == 2
    world.check_at_rest()


def test_what_a_denoising_failed_with_serves_nobody_else(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    denoiser = rest_of(world)
    ask(world, "a")
    failing = world.submit(conditioning="a")
    for _ in range(world.policy.max_model_errors):
        world.run_to(denoiser, Phase.RUNNING)
        world.deliver_all()
        world.fail_task(denoiser, 0, FailureKind.MODEL_ERROR)
        world.deliver_all()
        world.advance(world.policy.max_backoff)
    assert world.store[failing].kind is FailureKind.MODEL_ERROR
    assert not encoder.outputs
    ask(world, "a", "a")
    assert encodings(world) == 2


def test_a_prompt_that_never_rests_does_not_gather_the_jobs_that_had_it(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    for _ in range(30):
        world.submit(conditioning="a")
        for _ in range(4):
            world.run_round()
    peer = world.core.peers[encoder.incarnation]
    (output,) = peer.outputs.values()
    assert not peer.cached
    assert len(output.sharers) > 2
    assert output.sharers <= world.core.jobs.keys()


def test_a_heartbeat_that_says_nothing_of_leaving_costs_nothing(world: World) -> None:
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a")
    world.tell(PeerHeartbeat(encoder.incarnation))
    assert len(world.core.peers[encoder.incarnation].cached) == 1


def test_a_router_that_stops_leaves_no_encoder_waiting_for_it(world: World) -> None:
    """As when a whole pipeline is deleted: an encoder that is told to leave keeps nothing that nobody would release."""
    encoder = world.spawn(ENCODE, cache_share=0.5)
    rest_of(world)
    ask(world, "a", "b")
    assert encoder.outputs
    world.tell(RouterStops())
    world.deliver_all()
    assert not encoder.outputs
