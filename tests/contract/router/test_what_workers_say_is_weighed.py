"""Reports are believed as far as they can be true, and whoever is not accepted changes nothing (I15)."""

from __future__ import annotations

import math

import grpc
import httpx
import pytest

from contract.api.artist import picture
from contract.router.conftest import Router, Start
from contract.router.scripted_worker import DEADLINE, ScriptedWorker, attach_all
from contract.router.test_jobs_and_streams import create, ended, heard, peers
from diffusion_router.core import PeerHeartbeat
from diffusion_router.peers.claims import MAX_ADAPTERS, make_plausible
from diffusion_router.peers.messages import event, registration
from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2
from diffusionpipeline.words import PROTOCOL
from testbed.waiting import eventually


async def count(router: Router, series: str) -> float:
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith(series)).rpartition(" ")[2])


async def test_a_report_of_a_kind_that_is_not_known_is_passed_over_and_counted(router: Router) -> None:
    (worker,) = await attach_all(router.target, "encoder")
    await create(router)
    task = await worker.next_task()
    newer = peer_pb2.PeerReport.FromString(bytes([0xD2, 0x3E, 0x02, 0x08, 0x01]))  # field 1002, a message
    assert newer.WhichOneof("report") is None
    assert newer.ByteSize()
    await worker._stream.write(newer)
    await worker.start(task)
    await worker.finish(task)
    await heard(router, worker)
    assert await count(router, 'diffusion_router_ignored_reports_total{reason="unknown"}') == 1
    assert worker.registered is not None
    assert worker.registered.protocol == PROTOCOL


async def attached(router: Router, mode: str, address: str) -> ScriptedWorker:
    return await ScriptedWorker(router.target, "encoder", mode=mode, url=f"{mode}://{address}/1000+1000").attach()


async def test_workers_that_mooncake_cannot_join_do_not_register_together(router: Router) -> None:
    await attached(router, "mooncake-tcp", "[fd00::7]:15000")
    assert (await attached(router, "mooncake-tcp", "[fd00::8]:15000")).registered is not None
    refused = (await attached(router, "mooncake-tcp", "10.0.0.7:15000")).refused
    assert refused is not None
    assert refused.reason == peer_pb2.REFUSAL_REASON_INCOMPATIBLE
    assert "over IPv4" in refused.message
    assert "--node-ip" in refused.message


async def test_workers_of_our_own_tcp_register_whichever_version_of_ip_they_have(router: Router) -> None:
    await attached(router, "tcp", "[fd00::7]:15000")
    assert (await attached(router, "tcp", "10.0.0.7:15000")).registered is not None


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300])
async def test_a_time_that_cannot_be_spoils_no_prediction(router: Router, seconds: float) -> None:
    encoder, denoiser, decoder = await attach_all(router.target, "encoder", "denoiser", "decoder")
    for worker in (encoder, denoiser, decoder):
        result = worker.result

        def impossible(task: peer_pb2.Execute, result: object = result) -> peer_pb2.StageDone:
            done = result(task)  # type: ignore[operator]
            done.timings.compute_seconds = done.timings.wait_seconds = seconds
            return done

        worker.result = impossible  # type: ignore[method-assign]
        worker.work()
    job = await create(router)
    assert (await ended(router, job.id)).status == job_pb2.JOB_STATUS_COMPLETED
    await create(router)
    stage_seconds = 'diffusion_router_stage_duration_seconds_sum{role="denoiser"}'
    for series in ("diffusion_router_predicted_wait_seconds", stage_seconds):
        assert math.isfinite(await count(router, series))
    assert await count(router, 'diffusion_router_ignored_reports_total{reason="impossible"}') >= 6


async def test_forwards_that_took_no_possible_time_are_not_shown(router: Router) -> None:
    (worker,) = await attach_all(router.target, "denoiser")
    forwards = [peer_pb2.ForwardTime(shape="s", requests=1, seconds=seconds) for seconds in (0.1, math.nan, -math.inf)]
    await worker.report(heartbeat=peer_pb2.Heartbeat(forwards=forwards))
    await heard(router, worker)
    assert await count(router, 'diffusion_router_ignored_reports_total{reason="impossible"}') == 2


def test_of_what_a_heartbeat_says_again_the_core_hears_nothing() -> None:
    def beat(*seconds: float) -> peer_pb2.PeerReport:
        forwards = [peer_pb2.ForwardTime(shape="s", requests=n + 1, seconds=one) for n, one in enumerate(seconds)]
        return peer_pb2.PeerReport(heartbeat=peer_pb2.Heartbeat(forwards=forwards))

    first, second = beat(0.1, 0.2), beat(0.1, 0.3)
    heard = [
        event("i", report, before.heartbeat)
        for before, report in ((peer_pb2.PeerReport(), first), (first, first), (first, second))
    ]
    assert [len(beat.forwards) for beat in heard if isinstance(beat, PeerHeartbeat)] == [2, 0, 1]


@pytest.mark.parametrize("kind", ["control_nets", "ip_adapters"])
def test_of_more_names_than_a_worker_can_have_the_rest_is_passed_over(kind: str) -> None:
    told = peer_pb2.Adapters(**{kind: [f"n{index}" for index in range(MAX_ADAPTERS + 3)]})
    report = peer_pb2.PeerReport(heartbeat=peer_pb2.Heartbeat(adapters=told))
    assert make_plausible(report) == 3
    assert len(getattr(report.heartbeat.adapters, kind)) == MAX_ADAPTERS


@pytest.mark.parametrize("share", [math.nan, math.inf, -0.5, 1.5])
def test_a_worker_keeps_no_impossible_share_of_its_pool(share: float) -> None:
    report = peer_pb2.PeerReport(register=peer_pb2.Register(incarnation="i", cache_share=share))
    assert make_plausible(report) == 1
    assert registration(report.register).cache_share == 0


def test_what_is_kept_is_reckoned_by_the_pages_that_it_takes_of_the_pool() -> None:
    done = peer_pb2.StageDone(task_id="t", job_id="j", stage=stage_pb2.STAGE_ENCODE)
    done.output.length = 4097
    pool = peer_pb2.Pool(size=1 << 20)
    report = peer_pb2.PeerReport(
        register=peer_pb2.Register(incarnation="i", cache_share=0.5, pool=pool, outputs=[done])
    )
    assert make_plausible(report) == 0
    heard = registration(report.register)
    assert (heard.cache_share, heard.pool_bytes, heard.outputs[0].nbytes) == (0.5, 1 << 20, 8192)


@pytest.mark.parametrize("key", ["inputs/x", "jobs/other/0.png", "../jobs.db", ""])
async def test_a_result_names_files_of_its_own_job_alone(router: Router, key: str) -> None:
    encoder, denoiser, decoder = await attach_all(router.target, "encoder", "denoiser", "decoder")
    encoder.work()
    denoiser.work()
    job = await create(router)
    task = await decoder.next_task()
    await decoder.start(task)
    done = decoder.result(task)
    done.artifacts[0].key = key
    await decoder.report(stage_done=done)
    await decoder.ended()
    assert (await router.jobs.GetJob(job_pb2.GetJobRequest(id=job.id), timeout=DEADLINE)).job.completed_at == 0


async def test_i15_a_name_is_not_taken_from_a_worker_that_is_there(router: Router) -> None:
    (worker,) = await attach_all(router.target, "encoder")
    job = await create(router)
    task = await worker.next_task()
    await worker.start(task)
    stranger = ScriptedWorker(
        router.target,
        "encoder",
        pod_name=worker.pod_name,
        process=peer_pb2.Process(pod_uid="guessed", started_at=1e12),
    )
    await stranger.attach()
    assert stranger.refused is not None
    assert stranger.refused.reason == peer_pb2.REFUSAL_REASON_NAME_TAKEN
    await stranger.ended()
    await worker.finish(task)
    await heard(router, worker)
    assert (await peers(router))[worker.pod_name].incarnation == worker.incarnation
    answer = await router.jobs.GetJob(job_pb2.GetJobRequest(id=job.id), timeout=DEADLINE)
    assert answer.job.stage == stage_pb2.STAGE_DENOISE


async def test_i15_an_incarnation_is_its_own_who_knows_its_secret(router: Router) -> None:
    (worker,) = await attach_all(router.target, "encoder")
    stranger = ScriptedWorker(router.target, "encoder", pod_name=worker.pod_name, incarnation=worker.incarnation)
    await stranger.attach()
    assert stranger.refused is not None
    assert stranger.refused.reason == peer_pb2.REFUSAL_REASON_FENCED
    await create(router)
    await worker.start(await worker.next_task())
    await heard(router, worker)
    assert not stranger.executed


async def test_i15_the_secret_is_told_to_nobody(router: Router) -> None:
    (worker,) = await attach_all(router.target, "encoder")
    (peer,) = (await peers(router)).values()
    assert worker.secret not in peer.SerializeToString()


async def test_i15_a_strangers_claim_on_a_task_moves_nothing(router: Router) -> None:
    (worker,) = await attach_all(router.target, "encoder")
    job = await create(router)
    task = await worker.next_task()
    stranger = ScriptedWorker(router.target, "encoder")
    stranger.tasks[task.task_id] = task
    made = f"{job.id}.encode.9.{worker.registered.epoch}"  # type: ignore[union-attr]
    stranger.held[made] = peer_pb2.StageDone(task_id=made, job_id=job.id, stage=stage_pb2.STAGE_ENCODE)
    await stranger.attach()
    assert await stranger.next_release() == made
    await worker.start(task)
    await worker.finish(task)
    await heard(router, worker)
    (denoiser,) = await attach_all(router.target, "denoiser")
    assert (await denoiser.next_task()).input.incarnation == worker.incarnation


async def test_a_worker_of_an_older_version_is_served_as_before(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    worker = ScriptedWorker(router.target, "encoder", "denoiser", "decoder", protocol=0)
    worker.process, worker.secret = peer_pb2.Process(), b""
    await worker.attach()
    await create(router)
    for _ in range(2):
        task = await worker.next_task()
        await worker.start(task)
        await worker.finish(task)
    task = await worker.next_task()
    task.ticket = b""
    assert await worker.upload(task, b"picture")


async def upload_input(router: Router) -> tuple[str, str]:
    """A job that reads a file, and the file's key."""
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        form = {"prompt": "a red seven", "output_format": "png"}
        answer = await http.post("/v1/jobs", data=form, files={"image": ("a.png", picture(), "image/png")})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["ids"][0]
    job = (await router.jobs.GetJob(job_pb2.GetJobRequest(id=job_id), timeout=DEADLINE)).job
    return job_id, job.parameters.inputs[0].key


async def read(router: Router, key: str, task_id: str = "", ticket: bytes = b"") -> bytes:
    request = job_pb2.DownloadRequest(key=key, task_id=task_id, ticket=ticket)
    return b"".join([part.chunk async for part in router.artifacts.Download(request, timeout=DEADLINE)])


async def test_i15_what_a_client_sent_is_given_to_its_jobs_task_alone(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    (worker,) = await attach_all(router.target, "encoder")
    _, key = await upload_input(router)
    task = await worker.next_task()
    assert await read(router, key, task.task_id, task.ticket)
    _, other_key = await upload_input(router)
    other = await worker.next_task()
    for shown in (("", b""), (task.task_id, b""), (task.task_id, other.ticket), ("no.such.task", task.ticket)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read(router, key, *shown)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError):
        await read(router, other_key, task.task_id, task.ticket)


async def test_i15_a_ticket_is_another_for_each_task_and_outlives_the_router(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    (worker,) = await attach_all(router.target, "encoder")
    _, key = await upload_input(router)
    task = await worker.next_task()
    await worker.start(task)
    await create(router)
    assert (await worker.next_task()).ticket != task.ticket
    await worker.cut()
    await router.shut_down()
    again = await start_router(lease_seconds=300.0)
    worker.target = again.target
    await worker.attach()

    async def known() -> bool:
        try:
            return bool(await read(again, key, task.task_id, task.ticket))
        except grpc.aio.AioRpcError:
            return False

    await eventually(known, DEADLINE, "the task of the router's earlier life may read its file")
