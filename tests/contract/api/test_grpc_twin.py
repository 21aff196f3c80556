"""JobService and ArtifactService: the HTTP API's rules, in gRPC's words."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator

import grpc
import pytest

from contract.api.artist import Artist, picture, until
from contract.router.conftest import DEADLINE, Router, Start
from contract.router.scripted_worker import ScriptedWorker
from diffusionpipeline.process.channels import ASKING_CHANNEL
from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, peer_pb2, stage_pb2

UploadRequest = job_pb2.UploadRequest


async def refusal(call: Awaitable[object], code: grpc.StatusCode) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == code, caught.value.details()
    return caught.value.details() or "", dict(caught.value.trailing_metadata() or ())


def create(
    router: Router, *, key: str = "", timeout: float = 0, **parameters: object
) -> Awaitable[job_pb2.CreateJobResponse]:
    request = job_pb2.CreateJobRequest(
        parameters=stage_pb2.JobParameters(**{"prompt": "a red seven", **parameters}),
        idempotency_key=key,
        timeout_seconds=timeout,
    )
    return router.jobs.CreateJob(request, timeout=DEADLINE)


async def finished(router: Router, job_id: str) -> job_pb2.Job:
    job = job_pb2.Job()
    async for update in router.jobs.WatchJob(job_pb2.WatchJobRequest(id=job_id), timeout=DEADLINE):
        job = update.job
    return job


async def test_a_job_is_made_watched_and_its_file_downloaded(router: Router, artist: Artist) -> None:
    extra = {"eta": stage_pb2.Scalar(double_value=0.5), "max_sequence_length": stage_pb2.Scalar(int_value=77)}
    job = (await create(router, seed=5, width=128, height=64, guidance_scale=2.5, extra=extra)).job
    job = await finished(router, job.id)
    assert job.status == job_pb2.JOB_STATUS_COMPLETED
    got = artist.executed[0].parameters
    assert (got.seed, got.width, got.height, got.guidance_scale, got.output_format) == (5, 128, 64, 2.5, "png")
    assert {name: scalar.WhichOneof("value") for name, scalar in got.extra.items()} == {
        "eta": "double_value",
        "max_sequence_length": "int_value",
    }
    request = job_pb2.DownloadRequest(key=job.artifacts[0].key)
    chunks = [answer.chunk async for answer in router.artifacts.Download(request, timeout=DEADLINE)]
    assert b"".join(chunks) == picture(shade=5)


WRONG: list[tuple[dict[str, object], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 8001}, "prompt"),
    ({"width": 64}, "size"),
    ({"width": 99999, "height": 99999}, "size"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 1000}, "num_inference_steps"),
    ({"strength": 1.5}, "strength"),
    ({"strength": float("nan")}, "strength"),
    ({"seed": 2**64 - 1}, "seed"),
    ({"num_frames": 8}, "model"),
    ({"output_format": "gif"}, "output_format"),
    ({"inputs": [stage_pb2.InputFile(name="image", key="inputs/x")]}, "inputs"),
    ({"extra": {"height": stage_pb2.Scalar(int_value=5)}}, "model_args.height"),
    ({"extra": {"eta": stage_pb2.Scalar()}}, "model_args.eta"),
    ({"timeout": -1.0}, "timeout_seconds"),
    ({"timeout": float("nan")}, "timeout_seconds"),
    ({"timeout": 1e6}, "timeout_seconds"),
]


async def test_a_wrong_parameter_is_named(router: Router, artist: Artist, subtests: pytest.Subtests) -> None:
    for wrong, field in WRONG:
        with subtests.test(str(wrong)[:60]):
            _, trailer = await refusal(create(router, **wrong), grpc.StatusCode.INVALID_ARGUMENT)
            assert trailer["field"] == field
    assert artist.executed == []


async def test_a_full_queue_says_when_to_come_back(start_router: Start) -> None:
    router = await start_router(max_queued_requests=1)
    await create(router, output_format="png")
    text, trailer = await refusal(create(router, output_format="png"), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert int(trailer["retry-after"]) >= 1
    assert (trailer["code"], "queue is full" in text) == ("queue_full", True)


async def test_a_key_finds_its_job_and_no_other(router: Router, artist: Artist) -> None:
    first = (await create(router, key="k", seed=1)).job
    assert (await create(router, key="k", seed=1)).job.id == first.id
    await refusal(create(router, key="k", seed=2), grpc.StatusCode.ALREADY_EXISTS)


async def test_a_job_is_cancelled_listed_and_not_found(router: Router, artist: Artist) -> None:
    artist.allowed.clear()
    job = (await create(router)).job
    await artist.denoising.wait()
    answer = await router.jobs.CancelJob(job_pb2.CancelJobRequest(id=job.id), timeout=DEADLINE)
    assert answer.job.status == job_pb2.JOB_STATUS_CANCELLED
    await until(lambda: artist.cancelled == [job.id])

    async def listed(status: job_pb2.JobStatus.ValueType) -> list[str]:
        request = job_pb2.ListJobsRequest(status=status)
        return [item.id for item in (await router.jobs.ListJobs(request, timeout=DEADLINE)).jobs]

    assert await listed(job_pb2.JOB_STATUS_CANCELLED) == await listed(0) == [job.id]
    assert await listed(job_pb2.JOB_STATUS_COMPLETED) == []
    calls = [
        router.jobs.GetJob(job_pb2.GetJobRequest(id="nobody"), timeout=DEADLINE),
        router.jobs.CancelJob(job_pb2.CancelJobRequest(id="nobody"), timeout=DEADLINE),
        anext(aiter(router.jobs.WatchJob(job_pb2.WatchJobRequest(id="nobody"), timeout=DEADLINE))),
        anext(aiter(router.artifacts.Download(job_pb2.DownloadRequest(key="jobs/x/y"), timeout=DEADLINE))),
        anext(aiter(router.artifacts.Download(job_pb2.DownloadRequest(key="../jobs.db"), timeout=DEADLINE))),
    ]
    for call in calls:
        await refusal(call, grpc.StatusCode.NOT_FOUND)


async def test_a_list_may_be_larger_than_any_other_message(start_router: Start) -> None:
    router = await start_router(max_prompt_chars=1 << 20)
    ids = {(await create(router, prompt="\u4e03" * (1 << 20), output_format="png")).job.id for _ in range(2)}
    async with grpc.aio.insecure_channel(router.target, options=ASKING_CHANNEL) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        answer = await stub.ListJobs(job_pb2.ListJobsRequest(), timeout=DEADLINE)
    assert answer.ByteSize() > 4 << 20
    assert {job.id for job in answer.jobs} == ids


@pytest.fixture
async def decoding(router: Router) -> peer_pb2.Execute:
    """A task that is at its job's last stage."""
    worker = ScriptedWorker(router.target, "encoder", "denoiser", "decoder")
    await worker.attach()
    await create(router, output_format="png")
    for _ in range(2):
        task = await worker.next_task()
        await worker.start(task)
        await worker.finish(task)
    task = await worker.next_task()
    await worker.start(task)
    return task


def parts(task: peer_pb2.Execute, *chunks: bytes, **header: object) -> Iterator[UploadRequest]:
    ours = {"job_id": task.job_id, "task_id": task.task_id, "ticket": task.ticket}
    values = {**ours, "name": "0.png", "size": sum(map(len, chunks)), **header}
    yield UploadRequest(header=UploadRequest.Header(**values))
    for chunk in chunks:
        yield UploadRequest(chunk=chunk)


async def upload(router: Router, *requests: UploadRequest) -> str:
    return (await router.artifacts.Upload(iter(requests), timeout=DEADLINE)).key


async def download(router: Router, key: str) -> bytes:
    answers = router.artifacts.Download(job_pb2.DownloadRequest(key=key), timeout=DEADLINE)
    chunks = [answer.chunk async for answer in answers]
    assert all(len(chunk) <= 1 << 20 for chunk in chunks)
    return b"".join(chunks)


@pytest.mark.parametrize("chunks", [[], [b""], [b"abc", b"def"], [bytes([n]) * 1_000_000 for n in range(20)]])
async def test_a_file_is_uploaded_and_downloaded_whole(
    router: Router, decoding: peer_pb2.Execute, chunks: list[bytes]
) -> None:
    key = await upload(router, *parts(decoding, *chunks))
    assert key == f"jobs/{decoding.job_id}/0.png"
    assert await download(router, key) == b"".join(chunks)


async def test_an_upload_that_is_not_as_announced_keeps_nothing(router: Router, decoding: peer_pb2.Execute) -> None:
    wrong = [
        parts(decoding, b"abc", size=4),
        parts(decoding, b"abc", size=2),
        parts(decoding, *([b"x" * 1_000_000] * 9), size=9_000_001),
        parts(decoding, *([b"x" * 1_000_000] * 10), size=9_000_000),
        iter([UploadRequest(chunk=b"abc")]),
        iter([]),
        iter([*parts(decoding, b"abc", size=6), *parts(decoding, b"abc")]),
    ]
    for requests in wrong:
        await refusal(upload(router, *requests), grpc.StatusCode.INVALID_ARGUMENT)
    request = job_pb2.DownloadRequest(key=f"jobs/{decoding.job_id}/0.png")
    await refusal(anext(aiter(router.artifacts.Download(request, timeout=DEADLINE))), grpc.StatusCode.NOT_FOUND)


async def test_only_the_task_that_a_job_is_at_may_upload(router: Router, decoding: peer_pb2.Execute) -> None:
    for other in ({"task_id": "older"}, {"job_id": "other"}, {"task_id": ""}, {"ticket": b""}, {"ticket": b"x" * 16}):
        _, trailer = await refusal(upload(router, *parts(decoding, b"x", **other)), grpc.StatusCode.NOT_FOUND)
        assert trailer["code"] == "task_not_current"


async def test_a_file_goes_nowhere_but_into_its_job(router: Router, decoding: peer_pb2.Execute) -> None:
    for name in ("../x.png", "a/b.png", "", ".png", "x" * 200):
        await refusal(upload(router, *parts(decoding, b"x", name=name)), grpc.StatusCode.NOT_FOUND)


async def test_a_file_larger_than_allowed_is_refused_by_its_header(start_router: Start) -> None:
    router = await start_router(max_artifact_bytes=1000, lease_seconds=300.0)
    worker = ScriptedWorker(router.target, "encoder", "denoiser", "decoder")
    await worker.attach()
    await create(router, output_format="png")
    task = await worker.next_task()
    await refusal(upload(router, *parts(task, b"x", size=1001)), grpc.StatusCode.RESOURCE_EXHAUSTED)
