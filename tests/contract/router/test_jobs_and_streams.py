"""The router's shells over real gRPC and a real store, with scripted workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from diffusionpipeline.v1 import job_pb2, peer_pb2, registry_pb2, stage_pb2
from testbed.waiting import eventually

from .conftest import Router
from .scripted_worker import ScriptedWorker, attach_all

Start = Callable[..., Awaitable[Router]]
DEADLINE = 10.0


async def create(router: Router, **parameters: object) -> job_pb2.Job:
    request = job_pb2.CreateJobRequest(
        parameters=stage_pb2.JobParameters(prompt="a red seven", output_format="png", **parameters)
    )
    return (await router.jobs.CreateJob(request, timeout=DEADLINE)).job


async def ended(router: Router, job_id: str) -> job_pb2.Job:
    job = None
    async for update in router.jobs.WatchJob(job_pb2.WatchJobRequest(id=job_id), timeout=DEADLINE):
        job = update.job
    assert job is not None
    return job


async def peers(router: Router) -> dict[str, registry_pb2.Peer]:
    answer = await router.registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)
    return {peer.pod_name: peer for peer in answer.peers}


async def heard(router: Router, worker: ScriptedWorker) -> None:
    """Until the router has read all that the worker said so far: it reads a stream in order, and this comes last."""
    mark = (await peers(router))[worker.pod_name].slots_used + 1
    await worker.report(heartbeat=peer_pb2.Heartbeat(slots_used=mark))

    async def told() -> bool:
        return (await peers(router))[worker.pod_name].slots_used == mark

    await eventually(told, DEADLINE, f"the router has read what {worker.pod_name} said")


async def test_a_job_goes_from_role_to_role_and_everything_is_given_back(router: Router) -> None:
    encoder, denoiser, decoder = await attach_all(router.target, "encoder", "denoiser", "decoder")
    job = await create(router)
    encode = await encoder.next_task()
    assert encode.parameters.seed == job.parameters.seed
    await encoder.start(encode)
    await encoder.finish(encode)
    denoise = await denoiser.next_task()
    assert denoise.input.url == encode.task_id
    await denoiser.start(denoise, steps=8)
    await denoiser.finish(denoise)
    assert await encoder.next_release() == encode.task_id
    decode = await decoder.next_task()
    assert decode.input.url == denoise.task_id
    await decoder.start(decode)
    await decoder.finish(decode)
    final = await ended(router, job.id)
    assert final.status == job_pb2.JOB_STATUS_COMPLETED
    assert [artifact.key for artifact in final.artifacts] == [f"jobs/{job.id}/0.png"]
    assert [stage.stage for stage in final.stages] == [1, 2, 3]
    await decoder.next_release()
    await denoiser.next_release()
    for peer in (await peers(router)).values():
        assert (peer.tasks, peer.outputs, peer.credits) == (0, 0, 2)


async def test_a_missing_seed_is_drawn_and_written_down(router: Router) -> None:
    await attach_all(router.target, "decoder")
    first, second = await create(router), await create(router)
    assert first.parameters.HasField("seed") and second.parameters.HasField("seed")
    assert first.parameters.seed != second.parameters.seed
    assert (await create(router, seed=7)).parameters.seed == 7


async def test_i7_a_restarted_router_finds_its_jobs_and_computes_no_held_stage_twice(start_router: Start) -> None:
    first = await start_router()
    encoder, denoiser = await attach_all(first.target, "encoder", "denoiser")
    running, encoded, fresh = [await create(first) for _ in range(3)]
    for _ in (running, encoded):
        task = await encoder.next_task()
        await encoder.start(task)
        await encoder.finish(task)
    denoise = await denoiser.next_task()
    await denoiser.start(denoise)
    await denoiser.next_task()  # the prefetched one
    in_hand = await encoder.next_task()
    assert in_hand.job_id == fresh.id
    await encoder.cut()
    await denoiser.cut()
    await first.shut_down()

    second = await start_router()
    for worker in (encoder, denoiser):
        worker.target = second.target
        await worker.attach()
    (decoder,) = await attach_all(second.target, "decoder")
    decoder.work()
    await encoder.finish(in_hand)
    for task in list(denoiser.tasks.values()):
        await denoiser.finish(task)
    denoiser.work()
    for job in (running, encoded, fresh):
        assert (await ended(second, job.id)).status == job_pb2.JOB_STATUS_COMPLETED
    assert [task.job_id for task in encoder.executed] == [running.id, encoded.id, fresh.id]
    assert [task.job_id for task in denoiser.executed] == [running.id, encoded.id, fresh.id]


async def test_i7_a_file_that_comes_before_its_worker_has_registered_is_asked_for_again(start_router: Start) -> None:
    """After a restart of the router, which would have a finished decoding made anew if it refused it."""
    first = await start_router(lease_seconds=300.0)
    workers = await attach_all(first.target, "encoder", "denoiser", "decoder")
    *makers, decoder = workers
    job = await create(first)
    for worker in makers:
        task = await worker.next_task()
        await worker.start(task)
        await worker.finish(task)
    task = await decoder.next_task()
    await decoder.start(task)
    for worker in workers:
        await worker.cut()
    await first.shut_down()

    second = await start_router(lease_seconds=300.0, settle_seconds=300.0)
    (early,) = await attach_all(second.target, "decoder")

    async def refusal() -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await early.upload(task, b"picture")
        return refused.value.code()

    assert await refusal() is grpc.StatusCode.UNAVAILABLE
    ticket, task.ticket = task.ticket, b"guessed"
    assert await refusal() is grpc.StatusCode.NOT_FOUND
    task.ticket = ticket
    for worker in (decoder, *makers):
        worker.target = second.target
        await worker.attach()
    assert await decoder.upload(task, b"picture")
    await decoder.finish(task)
    final = await ended(second, job.id)
    assert (final.status, final.step, final.steps) == (job_pb2.JOB_STATUS_COMPLETED, 4, 4)
    assert [(stage.stage, stage.attempt) for stage in final.stages] == [
        (stage_pb2.STAGE_DENOISE, 1),
        (stage_pb2.STAGE_DECODE, 1),
    ]


async def test_i7_a_job_that_nobody_holds_is_started_again(start_router: Start) -> None:
    first = await start_router()
    await attach_all(first.target, "decoder")
    job = await create(first, seed=5)
    await first.shut_down()
    second = await start_router()
    (worker,) = await attach_all(second.target, ["encoder", "denoiser", "decoder"])
    worker.work()
    final = await ended(second, job.id)
    assert final.status == job_pb2.JOB_STATUS_COMPLETED
    assert final.parameters.seed == 5


async def test_a_silent_peer_is_fenced_at_the_end_of_its_lease_and_its_late_result_changes_nothing(
    start_router: Start,
) -> None:
    router = await start_router(lease_seconds=0.5)
    (frozen,) = await attach_all(router.target, "encoder")
    job = await create(router)
    stuck = await frozen.next_task()
    await frozen.start(stuck)
    await frozen.ended()  # refused as fenced, stream closed
    (encoder,) = await attach_all(router.target, "encoder")
    again = await encoder.next_task()
    assert (again.job_id, again.attempt) == (job.id, 2)
    await frozen.cut()
    frozen.tasks.clear()
    frozen.held[stuck.task_id] = frozen.result(stuck)
    await frozen.attach()
    refused = frozen.refused
    assert refused is not None
    assert refused.reason == peer_pb2.REFUSAL_REASON_FENCED
    assert encoder.incarnation in {peer.incarnation for peer in (await peers(router)).values()}


async def test_a_new_incarnation_of_a_pod_replaces_the_old_one_at_once(router: Router) -> None:
    old = await ScriptedWorker(router.target, "encoder", pod_name="encoder-0").attach()
    await create(router)
    await old.start(await old.next_task())
    new = await ScriptedWorker(router.target, "encoder", pod_name="encoder-0").attach()
    assert (await new.next_task()).attempt == 2
    await old.ended()


async def test_a_later_stream_of_the_same_incarnation_replaces_the_earlier_one(router: Router) -> None:
    worker = await ScriptedWorker(router.target, "encoder", pod_name="encoder-0").attach()
    twin = ScriptedWorker(router.target, "encoder", pod_name="encoder-0", incarnation=worker.incarnation)
    twin.secret, twin.process = worker.secret, worker.process
    await twin.attach()
    await worker.ended()
    assert list(await peers(router)) == ["encoder-0"]
    await create(router)
    await twin.next_task()


async def test_i11_a_job_that_kills_two_workers_is_failed_as_poison(router: Router) -> None:
    await attach_all(router.target, "decoder")
    job = await create(router)
    for _ in range(2):
        worker = await ScriptedWorker(router.target, "encoder", pod_name="encoder-0").attach()
        await worker.start(await worker.next_task())
        await heard(router, worker)
    third = await ScriptedWorker(router.target, "encoder", pod_name="encoder-0").attach()
    final = await ended(router, job.id)
    assert final.failure.kind == stage_pb2.FAILURE_KIND_POISON
    assert not third.executed


async def test_cancel_stops_the_task_and_gives_its_credit_back(router: Router) -> None:
    (encoder,) = await attach_all(router.target, "encoder")
    job = await create(router)
    task = await encoder.next_task()
    await encoder.start(task)
    answer = await router.jobs.CancelJob(job_pb2.CancelJobRequest(id=job.id), timeout=DEADLINE)
    assert answer.job.status == job_pb2.JOB_STATUS_CANCELLED
    assert (await encoder.next_cancel()).task_id == task.task_id
    await encoder.fail(task, stage_pb2.FAILURE_KIND_CANCELLED)
    await create(router)
    await encoder.next_task()
    (peer,) = (await peers(router)).values()
    assert (peer.tasks, peer.credits) == (1, 1)


async def test_a_full_queue_refuses_with_a_time_to_come_back(start_router: Start) -> None:
    router = await start_router(max_queued_requests=2)
    await attach_all(router.target, "decoder")
    await create(router)
    await create(router)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await create(router)
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert float(dict(refusal.value.trailing_metadata() or ())["retry-after"]) >= 1


async def test_of_many_requests_at_once_no_more_are_let_in_than_may_wait(start_router: Start) -> None:
    router = await start_router(max_queued_requests=3)
    outcomes = await asyncio.gather(*(create(router) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, job_pb2.Job) for outcome in outcomes) == 3


async def test_the_same_idempotency_key_finds_the_same_job_also_after_a_restart(start_router: Start) -> None:
    request = job_pb2.CreateJobRequest(
        parameters=stage_pb2.JobParameters(prompt="a red seven", output_format="png"), idempotency_key="k1"
    )
    first = await start_router()
    await attach_all(first.target, "decoder")
    ids = [(await first.jobs.CreateJob(request, timeout=DEADLINE)).job.id for _ in range(2)]
    await first.shut_down()
    second = await start_router()
    await attach_all(second.target, "decoder")
    ids.append((await second.jobs.CreateJob(request, timeout=DEADLINE)).job.id)
    assert len(set(ids)) == 1
    request.parameters.prompt = "a blue two"
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await second.jobs.CreateJob(request, timeout=DEADLINE)
    assert refusal.value.code() in (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INVALID_ARGUMENT)


async def test_peers_are_watched_as_they_come_and_go(router: Router) -> None:
    watch = router.registry.WatchPeers(registry_pb2.WatchPeersRequest(), timeout=DEADLINE)
    seen = aiter(watch)
    assert not (await anext(seen)).peers
    (encoder,) = await attach_all(router.target, "encoder")
    update = await anext(seen)
    assert [peer.incarnation for peer in update.peers] == [encoder.incarnation]
    await encoder.report(drained=peer_pb2.Drained())
    while update.peers:
        update = await anext(seen)


async def test_a_first_report_that_is_no_register_is_refused_in_words(router: Router) -> None:
    from diffusionpipeline.v1 import peer_pb2_grpc

    stream = peer_pb2_grpc.PeerServiceStub(router.channel).Attach(timeout=DEADLINE)
    await stream.write(peer_pb2.PeerReport(heartbeat=peer_pb2.Heartbeat()))
    with pytest.raises(grpc.aio.AioRpcError, match="must be a Register"):
        async for _ in stream:
            pass


async def test_a_peer_of_the_same_generation_with_another_transport_is_refused(router: Router) -> None:
    await attach_all(router.target, "encoder")
    worker = await ScriptedWorker(router.target, "denoiser", mode="tcp").attach()
    refused = worker.refused
    assert refused is not None
    assert refused.reason == peer_pb2.REFUSAL_REASON_INCOMPATIBLE
    assert "tcp" in refused.message and "memory" in refused.message


async def test_the_two_ends_of_an_edge_have_the_same_network_and_two_edges_need_not(router: Router) -> None:
    for role, modes in (("encoder", {"mode": "tcp"}), ("denoiser", {"mode": "memory", "pulls": "tcp"})):
        assert (await ScriptedWorker(router.target, role, **modes).attach()).registered is not None
    listed = {
        stage_pb2.Role.Name(peer.roles[0]): (peer.pool.mode, peer.pool.pulls) for peer in (await peers(router)).values()
    }
    assert listed == {"ROLE_ENCODER": ("tcp", ""), "ROLE_DENOISER": ("memory", "tcp")}
    refused = (await ScriptedWorker(router.target, "decoder", mode="tcp").attach()).refused
    assert refused is not None
    assert refused.reason == peer_pb2.REFUSAL_REASON_INCOMPATIBLE
    assert (await ScriptedWorker(router.target, "decoder", mode="memory").attach()).registered is not None


@pytest.mark.parametrize(
    ("roles", "settings", "words"),
    [
        (["denoiser"], {"slots": 1}, ["pool of 1 slots", "need 2", "transport.poolSize"]),
        (["encoder", "decoder"], {"slots": 1}, ["pool of 1 slots", "need 2"]),
        (["encoder"], {"slots": 0}, ["pool of 0 slots", "need 1"]),
        (["encoder"], {"capacity": 0}, ["capacity 0", "at least one task"]),
        ([], {}, ["without a role", "--role encoder, denoiser or decoder"]),
    ],
    ids=lambda value: str(value),
)
async def test_a_worker_that_could_never_take_its_turn_is_refused_in_words(
    router: Router, roles: list[str], settings: dict[str, int], words: list[str]
) -> None:
    worker = await ScriptedWorker(router.target, *roles, pod_name="small-0", **settings).attach()
    refused = worker.refused
    assert refused is not None
    assert refused.reason == peer_pb2.REFUSAL_REASON_INCOMPATIBLE
    assert "small-0" in refused.message
    assert all(word in refused.message for word in words)
    await worker.ended()
    assert not await peers(router)


async def test_a_worker_with_just_enough_slots_is_taken(router: Router) -> None:
    worker = await ScriptedWorker(router.target, "denoiser", slots=2).attach()
    assert worker.registered is not None


async def test_a_store_that_fails_for_a_while_delays_the_end_and_loses_nothing(
    router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_router.store import JobStore, StoreUnavailable

    real, refusals = JobStore.finish, asyncio.Queue[None]()

    async def finish(self: JobStore, jobs: object, *, now: float) -> None:
        if refusals.qsize() < 2:
            refusals.put_nowait(None)
            raise StoreUnavailable("disk full")
        await real(self, jobs, now=now)  # type: ignore[arg-type]

    monkeypatch.setattr(JobStore, "finish", finish)
    monkeypatch.setattr("diffusion_router.service._RETRY_SECONDS", 0.01)
    (worker,) = await attach_all(router.target, ["encoder", "denoiser", "decoder"])
    worker.work()
    job = await create(router)
    assert (await ended(router, job.id)).status == job_pb2.JOB_STATUS_COMPLETED
    assert refusals.qsize() == 2
