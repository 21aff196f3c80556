"""Peers come, go, come back, and are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusion_router.core import (
    CancelTask,
    Execute,
    FailureKind,
    JobStatus,
    PeerLost,
    Process,
    RefusalReason,
    Refuse,
    ReleaseSlot,
    Stage,
    StageResult,
)
from unit.core.workers import Phase, Where
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage


@pytest.fixture
def world() -> World:
    return World()


def refusals(world: World) -> list[tuple[RefusalReason, str]]:
    return [(action.reason, action.message) for action in world.said(Refuse)]


def test_a_fenced_incarnation_is_refused_and_comes_back_as_a_new_one(world: World) -> None:
    worker = world.spawn()
    old = worker.incarnation
    worker.frozen = True
    world.advance(world.policy.lease + 0.1)
    worker.frozen = False
    worker.attach()
    world.deliver_all()
    ((reason, message),) = refusals(world)
    assert reason is RefusalReason.FENCED
    assert "come back as a new one" in message
    worker.attach()
    world.deliver_all()
    assert list(world.core.peers) == [worker.incarnation] != [old]


def test_nothing_that_a_fenced_incarnation_still_says_is_heard(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(encoder, Phase.RUNNING)
    late = encoder.stream
    assert late is not None
    world.work(encoder)
    encoder.frozen = True
    world.advance(world.policy.lease + 0.1)
    for event in late.up:
        assert world.tell(event) == []
    assert world.core.jobs[job].stage is ENCODE


def test_a_new_incarnation_under_the_same_pod_name_replaces_the_old_one_at_once(world: World) -> None:
    old = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(old, Phase.RUNNING)
    old.alive, old.stream = False, None  # and nobody has noticed
    new = world.respawn(old)
    assert [action.incarnation for action in world.said(PeerLost)] == [old.incarnation]
    assert [held.execute.job_id for held in new.tasks.values()] == [job]


def test_i15_a_name_is_not_taken_from_a_worker_that_is_there(world: World) -> None:
    worker = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(worker, Phase.RUNNING)
    stranger = world.respawn(worker, uid="another pod")
    ((reason, message),) = refusals(world)
    assert reason is RefusalReason.NAME_TAKEN
    assert f"{worker.pod} is the name of a worker that is here" in message
    assert list(world.core.peers) == [worker.incarnation]
    world.cut(worker)
    worker.alive = False
    world.tend(stranger)
    world.deliver_all()
    assert list(world.core.peers) == [stranger.incarnation], "the other is gone"
    assert [held.execute.job_id for held in stranger.tasks.values()] == [job]


@pytest.mark.parametrize("process", [None, Process("uid of pod1", 0.0)])
def test_i15_who_does_not_say_or_started_earlier_takes_no_name(world: World, process: Process | None) -> None:
    worker = world.spawn(ENCODE)
    assert worker.process == Process("uid of pod1", 1.0)
    world.spawn(ENCODE, pod=worker.pod, process=process)
    assert [reason for reason, _ in refusals(world)] == [RefusalReason.NAME_TAKEN]
    assert list(world.core.peers) == [worker.incarnation]


def test_i15_who_is_refused_changes_nothing(world: World) -> None:
    worker, other = world.spawn(ENCODE), world.spawn(DENOISE)
    before = (dict(world.core.peers), world.core.revision)
    late = {"process": Process("uid of pod1", 99.0), "pod": worker.pod}
    world.spawn(ENCODE, mode="another", **late)
    world.spawn(ENCODE, capacity=0, **late)
    world.spawn(ENCODE, capacity=10**6, **late)
    world.spawn(ENCODE, slots=10**9, **late)
    assert [reason for reason, _ in refusals(world)] == [RefusalReason.INCOMPATIBLE] * 4
    assert (dict(world.core.peers), world.core.revision) == before
    assert not list(world.said(PeerLost))
    assert world.core.peers[other.incarnation].takes_tasks


def test_i15_tasks_and_outputs_that_this_life_gave_to_another_are_not_believed(world: World) -> None:
    worker = world.spawn(ENCODE)
    job = world.submit()
    world.work_until(worker, Phase.RUNNING)
    stranger = world.spawn(ENCODE, attach=False)
    (task,) = worker.tasks.values()
    stranger.tasks[task.execute.task_id] = replace(task, content="claimed")
    made = Where(stranger.incarnation, f"{job}.encode.7.e1", "g1", "claimed")
    stranger.outputs[made.task_id] = StageResult(made.task_id, job, ENCODE, made)
    stranger.attach()
    world.deliver_up(stranger)
    assert world.core.jobs[job].task.incarnation == worker.incarnation
    assert not world.core.peers[stranger.incarnation].tasks
    assert [action.task_id for action in world.said(CancelTask)] == [task.execute.task_id]
    assert [action.task_id for action in world.said(ReleaseSlot)] == [made.task_id]


def test_i13_a_peer_whose_task_does_not_stop_is_stalled_and_gives_back_what_waits(world: World) -> None:
    worker, other = world.spawn(DENOISE), world.spawn(ENCODE)
    first = world.submit(deadline=5.0)
    second = world.submit()
    world.run_to(worker, Phase.RUNNING)
    for _ in range(4):
        world.work(other)
        world.deliver_all()
    assert len(worker.tasks) == 2, "one runs and hangs, one waits behind it"
    world.advance(5.1)
    world.deliver_all()
    assert world.store[first].kind is FailureKind.DEADLINE
    assert world.core.peers[worker.incarnation].state.value == "ready"
    world.advance(world.policy.stall)
    assert world.core.peers[worker.incarnation].state.value == "stalled"
    world.deliver_all()
    assert [held.execute.job_id for held in worker.tasks.values()] == [first], "it hangs; the other was given back"
    assert world.core.jobs[second].task is None
    third = world.spawn(DENOISE)
    assert [held.execute.job_id for held in third.tasks.values()] == [second]
    world.work(worker)  # it stops at last
    world.deliver_all()
    assert world.core.peers[worker.incarnation].state.value == "ready"


def test_i13_what_was_cut_off_while_its_peer_was_stalled_is_given_back_all_the_same(world: World) -> None:
    worker, other = world.spawn(DENOISE), world.spawn(ENCODE)
    world.submit(deadline=5.0)
    second = world.submit()
    world.run_to(worker, Phase.RUNNING)
    for _ in range(4):
        world.work(other)
        world.deliver_all()
    world.advance(5.1)
    world.deliver_all()
    world.cut(worker)
    policy = world.policy
    for _ in range(int(policy.stall / (policy.lease / 2)) + 1):
        worker.attach()
        world.deliver_up(worker)
        world.cut(worker)
        world.advance(policy.lease / 2)
    worker.attach()
    world.deliver_all()
    assert world.core.peers[worker.incarnation].state.value == "stalled"
    assert world.core.jobs[second].task is None
    assert [held.execute.job_id for held in worker.tasks.values()] != [second]


def test_a_silent_peer_is_suspect_and_gets_no_tasks_until_its_lease_ends(world: World) -> None:
    worker = world.spawn(ENCODE)
    world.cut(worker)
    world.submit()
    assert world.core.peers[worker.incarnation].state.value == "suspect"
    world.advance(world.policy.lease - 0.1)
    assert not list(world.said(PeerLost))
    world.advance(0.2)
    assert [action.reason for action in world.said(PeerLost)] == ["lease expired"]
    assert not list(world.said(Execute))


def test_another_transport_mode_in_the_same_generation_is_refused_with_words(world: World) -> None:
    world.spawn(ENCODE, pod="enc-0", mode="mooncake-rdma")
    refused = world.spawn(DENOISE, pod="den-0", mode="mooncake-tcp")
    ((reason, message),) = refusals(world)
    assert reason is RefusalReason.INCOMPATIBLE
    assert "den-0 moves tensors by mooncake-tcp, but enc-0" in message
    assert "transport.protocol" in refused.refused
    world.spawn(DENOISE, pod="den-1", mode="mooncake-tcp", generation="g2")
    assert len(world.core.peers) == 2, "another generation may"


def test_another_version_of_ip_in_the_same_generation_is_refused_with_words(world: World) -> None:
    world.spawn(ENCODE, pod="enc-0", mode="mooncake-tcp", ip="IPv6")
    refused = world.spawn(DENOISE, pod="den-0", mode="mooncake-tcp", ip="IPv4")
    ((reason, message),) = refusals(world)
    assert reason is RefusalReason.INCOMPATIBLE
    assert "den-0 moves tensors by mooncake-tcp over IPv4, but enc-0 of the same generation over IPv6" in message
    assert "transport.backend: tcp" in refused.refused


def test_each_edge_may_have_a_network_of_its_own_and_both_its_ends_must_have_the_same(world: World) -> None:
    tcp, rdma = "mooncake-tcp", "mooncake-rdma"
    world.spawn(ENCODE, pod="enc-0", mode=tcp)
    world.spawn(DECODE, pod="dec-0", mode=rdma)
    world.spawn(DENOISE, pod="den-0", mode=rdma, pulls=tcp)
    assert refusals(world) == []
    for number, (stage, mode, told) in enumerate(
        (
            (ENCODE, rdma, "x-0 moves tensors by mooncake-rdma, but enc-0"),
            (DENOISE, tcp, "dec-0 moves tensors by mooncake-rdma, but x-0 of the same generation by mooncake-tcp"),
            (DENOISE, rdma, "x-0 moves tensors by mooncake-rdma, but enc-0 of the same generation by mooncake-tcp"),
            (DECODE, tcp, "x-0 moves tensors by mooncake-tcp, but dec-0 of the same generation by mooncake-rdma"),
        ),
        1,
    ):
        world.spawn(stage, pod="x-0", mode=mode)
        assert len(refusals(world)) == number
        assert told in refusals(world)[-1][1]
    assert len(world.core.peers) == 3


def test_other_model_files_in_the_same_generation_are_refused_with_words(world: World) -> None:
    world.spawn(ENCODE, pod="enc-0", model="aaaa")
    world.spawn(DENOISE, pod="den-0", model="bbbb")
    ((_, message),) = refusals(world)
    assert "den-0 has model files bbbb, but enc-0" in message
    assert "model.revision" in message


def test_a_pool_in_which_its_roles_could_never_take_their_turn_is_refused_with_words(world: World) -> None:
    world.spawn(ENCODE, slots=1)
    world.spawn(DENOISE, pod="den-0", slots=1)
    world.spawn(ENCODE, DECODE, pod="both-0", slots=1)
    assert [reason for reason, _ in refusals(world)] == [RefusalReason.INCOMPATIBLE] * 2
    assert "den-0 has a pool of 1 slots" in refusals(world)[0][1]
    assert "transport.poolSize" in refusals(world)[0][1]


def test_a_worker_without_capacity_is_refused_with_words(world: World) -> None:
    world.spawn(ENCODE, capacity=0)
    ((_, message),) = refusals(world)
    assert "capacity 0" in message


def test_a_draining_peer_finishes_what_it_runs_and_gets_nothing_more(world: World) -> None:
    leaving, _ = world.spawn(), world.spawn(DECODE)
    first = world.submit()
    world.work_until(leaving, Phase.RUNNING)
    second = world.submit()
    world.deliver_all()
    leaving.drain()
    world.deliver_all()
    staying = world.spawn()
    world.run()
    world.check_at_rest()
    assert not leaving.alive
    assert leaving.computed == {(first, ENCODE): 1}
    assert staying.computed[second, ENCODE] == 1
    assert [action.reason for action in world.said(PeerLost)] == ["drained"]


def test_tensors_do_not_cross_generations_and_a_rolling_update_strands_no_job(world: World) -> None:
    """Every worker is replaced in turn by one of the next generation, in every order of roles, under load."""
    for stage in (ENCODE, DENOISE, DENOISE, DECODE):
        world.spawn(stage)
    for _ in range(12):
        world.submit()
    for old in [*world.workers][::-1]:
        for _ in range(3):
            world.run_round()
            world.advance(0.2)
        old.drain()
        for _ in range(8):
            world.run_round()
        world.kill(old)
        world.respawn(old).generation = "g2"
        new = world.workers[-1]
        world.cut(new)
        new.incarnation = world.name("i")
        new.attach()
        world.deliver_all()
        world.submit()
    world.run()
    world.check_at_rest()
    assert {job.status for job in world.store.values()} == {JobStatus.COMPLETED}


def test_a_job_whose_generation_has_no_later_role_any_more_starts_over_in_the_next(world: World) -> None:
    encoder = world.spawn(ENCODE)
    job = world.submit()
    while not encoder.outputs:
        world.work(encoder)
        world.deliver_all()
    world.spawn(generation="g2")
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED
    assert world.computed[job, ENCODE] == 2


def test_no_job_is_encoded_by_a_generation_that_cannot_finish_it(world: World) -> None:
    """Else it would be encoded, stranded and encoded again as fast as the old encoder can."""
    old = world.spawn(ENCODE)
    world.spawn(DENOISE, generation="g2")
    world.spawn(DECODE, generation="g2")
    job = world.submit()
    for _ in range(20):
        world.run_round()
        world.advance(0.1)
    assert not old.given
    world.spawn(ENCODE, generation="g2")
    world.run()
    world.check_at_rest()
    assert world.store[job].status is JobStatus.COMPLETED


def test_a_job_is_encoded_ahead_where_nobody_has_the_later_roles_yet(world: World) -> None:
    encoder = world.spawn(ENCODE)
    world.submit()
    world.deliver_all()
    assert encoder.tasks


def test_the_number_of_fenced_incarnations_that_are_remembered_is_bounded(world: World) -> None:
    for _ in range(world.policy.max_fenced + 10):
        worker = world.spawn(ENCODE)
        worker.alive, worker.stream = False, None
        world.workers.clear()
        world.now += world.policy.lease / 4
    assert len(world.core.fenced) <= world.policy.max_fenced
