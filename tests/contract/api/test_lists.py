"""Lists of jobs and videos: by what each is now, page by page, whatever lies between and however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from contract.api.artist import Artist
from contract.router.conftest import DEADLINE, Router, Start
from diffusion_router.settings import Settings
from diffusion_router.store import JobRecord, JobStore
from diffusionpipeline.v1 import job_pb2, stage_pb2

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

STATUSES = {
    "queued": job_pb2.JOB_STATUS_QUEUED,
    "in_progress": job_pb2.JOB_STATUS_IN_PROGRESS,
    "completed": job_pb2.JOB_STATUS_COMPLETED,
}


async def listed(router: Router, http: httpx.AsyncClient, status: str, limit: int) -> list[str]:
    """By HTTP and gRPC, which must say the same."""
    by_http = (await http.get("/v1/jobs", params={"status": status, "limit": limit})).json()["ids"]
    request = job_pb2.ListJobsRequest(status=STATUSES[status], limit=limit)
    by_grpc = [job.id for job in (await router.jobs.ListJobs(request, timeout=DEADLINE)).jobs]
    assert by_grpc == by_http
    return by_http


async def test_jobs_are_listed_by_what_they_are_now(router: Router, http: httpx.AsyncClient, artist: Artist) -> None:
    ids = list((await http.post("/v1/images/generations", json={"prompt": "done", "n": 2})).json()["jobs"])
    artist.allowed.clear()
    artist.denoising.clear()
    ids += (await http.post("/v1/jobs", json={"prompt": "x", "n": 6})).json()["ids"]
    await asyncio.wait_for(artist.denoising.wait(), DEADLINE)
    now = {job_id: (await http.get(f"/v1/jobs/{job_id}")).json()["status"] for job_id in reversed(ids)}
    assert set(now.values()) == set(STATUSES), "each of them is there"
    assert now[ids[-1]] == "queued", "the newest is none of those in progress"
    for status in STATUSES:
        wanted = [job_id for job_id, its in now.items() if its == status]
        assert await listed(router, http, status, 100) == wanted
        assert await listed(router, http, status, 1) == wanted[:1]


def ended(job_id: str, output_format: str) -> tuple[JobRecord, job_pb2.Job]:
    parameters = stage_pb2.JobParameters(prompt="x", seed=1, output_format=output_format)
    record = JobRecord(id=job_id, parameters=parameters, created_at=1.0, deadline_at=2.0, model="earlier")
    job = job_pb2.Job(
        id=job_id,
        status=job_pb2.JOB_STATUS_COMPLETED,
        parameters=parameters,
        created_at=1.0,
        completed_at=4e9,
        model="earlier",
    )
    return record, job


async def keep(folder: Path, jobs: Sequence[tuple[JobRecord, job_pb2.Job]]) -> None:
    store = await JobStore.open(Settings(data_dir=folder).resolved_store_url)
    await store.add([record for record, _ in jobs])
    await store.finish([job for _, job in jobs], now=1010.0)
    await store.close()


async def test_every_video_is_listed_however_many_there_are(start_router: Start, tmp_path: Path) -> None:
    """Between them lie as many pictures, and the newest jobs are pictures alone."""
    jobs = [ended(f"{kind}_{index}", kind) for index in range(1050) for kind in ("mp4", "png")]
    await keep(tmp_path / "data", [*jobs, *(ended(f"later_{index}", "png") for index in range(1000))])
    videos = [f"mp4_{index}" for index in range(1050)]
    router = await start_router()
    async with (
        AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=20) as client,
        httpx.AsyncClient(base_url=router.url) as http,
    ):
        assert [video.id async for video in client.videos.list(limit=100)] == videos[::-1]
        assert [video.id async for video in client.videos.list(limit=100, order="asc")] == videos

        async def page(**query: object) -> tuple[list[str], bool]:
            answer = (await http.get("/v1/videos", params=query)).json()
            ids = [video["id"] for video in answer["data"]]
            assert (answer["first_id"], answer["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
            return ids, answer["has_more"]

        assert await page() == (videos[:-21:-1], True)
        assert await page(limit=50, after="mp4_51") == (videos[50:0:-1], True)
        assert await page(limit=50, after="mp4_50") == (videos[49::-1], False)
        assert await page(order="asc", limit=1, after="mp4_1048") == (["mp4_1049"], False)
        assert await page(after="mp4_0") == ([], False)
        for unknown in ("png_0", "nobody", "\x00"):
            refused = await http.get("/v1/videos", params={"after": unknown})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


async def test_a_video_keeps_the_model_that_it_was_accepted_for(start_router: Start) -> None:
    first = await start_router()
    earlier = Artist(first.target, output="video", model="earlier")
    await earlier.attach()
    earlier.work()
    async with httpx.AsyncClient(base_url=first.url) as http:
        made = (await http.post("/v1/videos", json={"prompt": "x"})).json()
        assert made["model"] == "earlier"
        async for _ in first.jobs.WatchJob(job_pb2.WatchJobRequest(id=made["id"]), timeout=DEADLINE):
            pass
        earlier.allowed.clear()
        unfinished = (await http.post("/v1/videos", json={"prompt": "x"})).json()
    await earlier.cut()
    await first.shut_down()

    second = await start_router()
    later = Artist(second.target, output="video", model="later")
    await later.attach()
    async with httpx.AsyncClient(base_url=second.url) as http:
        for video in (made, unfinished):
            assert (await http.get(f"/v1/videos/{video['id']}")).json()["model"] == "earlier"
        later.work()
        fresh = (await http.post("/v1/videos", json={"prompt": "x"})).json()
        job = job_pb2.Job()
        for video in (unfinished, fresh):
            async for update in second.jobs.WatchJob(job_pb2.WatchJobRequest(id=video["id"]), timeout=DEADLINE):
                job = update.job
        assert job.model == "later"
        found = {video["id"]: video["model"] for video in (await http.get("/v1/videos")).json()["data"]}
        assert found == {made["id"]: "earlier", unfinished["id"]: "earlier", fresh["id"]: "later"}
        assert (await http.get(f"/v1/jobs/{made['id']}")).json()["model"] == "earlier"
    await later.cut()


async def test_a_job_accepted_before_any_worker_is_there_has_the_pipelines_model(start_router: Start) -> None:
    router = await start_router(model_id="digits")
    async with httpx.AsyncClient(base_url=router.url) as http:
        (job,) = (await http.post("/v1/jobs", json={"prompt": "x", "output_format": "png"})).json()["data"]
    assert job["model"] == "digits"
