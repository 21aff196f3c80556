"""`/v1/jobs`: asynchronous generation, its events, and how failures read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from contract.api.artist import STEPS, Artist, picture, until
from contract.router.conftest import DEADLINE, Router
from diffusionpipeline.v1 import stage_pb2

BODY = {"prompt": "a red seven", "seed": 3}


async def create(http: httpx.AsyncClient, **fields: object) -> str:
    answer = await http.post("/v1/jobs", json={**BODY, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["ids"][0])


async def read_events(http: httpx.AsyncClient, job_id: str) -> AsyncIterator[tuple[str, dict]]:
    async with http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        event = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield event, json.loads(line.removeprefix("data: "))


async def test_a_job_is_answered_before_it_is_done_and_tells_its_stages(
    http: httpx.AsyncClient, artist: Artist
) -> None:
    artist.allowed.clear()
    answer = await http.post("/v1/jobs", json={**BODY, "n": 2, "size": "64x64", "model_args": {"eta": 0.5}})
    assert answer.status_code == 202
    ids = answer.json()["ids"]
    assert [job["id"] for job in answer.json()["data"]] == ids
    artist.allowed.set()
    for number, job_id in enumerate(ids):
        async for _ in read_events(http, job_id):
            pass
        job = (await http.get(f"/v1/jobs/{job_id}")).json()
        assert (job["status"], job["progress"], job["error"]) == ("completed", 100, None)
        assert job["parameters"]["seed"] == 3 + number
        assert (job["parameters"]["size"], job["parameters"]["model_args"]) == ("64x64", {"eta": 0.5})
        assert [stage["stage"] for stage in job["stages"]] == ["encode", "denoise", "decode"]
        assert {stage["pod_name"] for stage in job["stages"]} == {artist.pod_name}
        assert job["expires_at"] > job["completed_at"] >= job["created_at"]
        fetched = await http.get(job["artifacts"][0]["url"])
        assert fetched.content == picture(shade=3 + number)
        assert int(fetched.headers["content-length"]) == job["artifacts"][0]["size"]


async def test_a_job_takes_the_files_of_an_edit(http: httpx.AsyncClient, artist: Artist) -> None:
    form = {"data": {"prompt": "blue", "strength": "0.5"}, "files": {"image": ("in.png", picture(), "image/png")}}
    answer = await http.post("/v1/jobs", **form)
    assert answer.status_code == 202
    await until(lambda: bool(artist.executed))
    assert artist.executed[0].parameters.inputs[0].name == "image"
    assert artist.executed[0].parameters.strength == 0.5


async def test_a_job_of_a_model_of_videos_is_a_video(http: httpx.AsyncClient, film_maker: Artist) -> None:
    job_id = await create(http, num_frames=8, fps=8)
    assert (await http.get(f"/v1/videos/{job_id}")).json()["seconds"] == "1"
    assert (await create(http)) in [video["id"] for video in (await http.get("/v1/videos")).json()["data"]]


async def test_events_tell_stages_steps_and_the_end(http: httpx.AsyncClient, artist: Artist) -> None:
    artist.allowed.clear()
    job_id = await create(http)
    seen: list[tuple[str, dict]] = []
    async for event, data in read_events(http, job_id):
        seen.append((event, data))
        if event == "step":
            artist.allowed.set()
    stages = [data["stage"] for event, data in seen if event == "stage"]
    assert stages == ["encode", "denoise", "decode"]
    steps = [(data["step"], data["steps"], data["progress"]) for event, data in seen if event == "step"]
    assert (STEPS // 2, STEPS, 50) in steps
    assert [event for event, _ in seen].count("end") == 1
    assert seen[-1][0] == "end"
    assert (seen[-1][1]["id"], seen[-1][1]["status"]) == (job_id, "completed")


async def test_the_events_of_an_ended_job_are_its_stages_and_its_end(http: httpx.AsyncClient, artist: Artist) -> None:
    job_id = await create(http)
    async for _ in read_events(http, job_id):
        pass
    again = [event async for event, _ in read_events(http, job_id)]
    assert again[-1] == "end"
    assert [event for event in again if event == "stage"] == ["stage"] * 3


async def test_one_who_watches_and_leaves_changes_nothing(
    router: Router, http: httpx.AsyncClient, artist: Artist
) -> None:
    artist.allowed.clear()
    job_id = await create(http)
    async with httpx.AsyncClient(base_url=router.url) as watcher:
        async for event, _ in read_events(watcher, job_id):
            if event == "step":
                break
    artist.allowed.set()
    assert [event async for event, _ in read_events(http, job_id)][-1] == "end"
    assert artist.cancelled == []


async def test_deleting_a_running_job_cancels_it_and_then_forgets_it(
    router: Router, http: httpx.AsyncClient, artist: Artist
) -> None:
    artist.allowed.clear()
    job_id = await create(http)
    await asyncio.wait_for(artist.denoising.wait(), DEADLINE)
    cancelled = await http.delete(f"/v1/jobs/{job_id}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["error"]["code"] == "cancelled"
    await until(lambda: artist.cancelled == [job_id])
    deleted = await http.delete(f"/v1/jobs/{job_id}")
    assert deleted.json() == {"id": job_id, "object": "job.deleted", "deleted": True}
    assert (await http.get(f"/v1/jobs/{job_id}")).status_code == 404


async def test_a_deleted_jobs_files_are_gone(router: Router, http: httpx.AsyncClient, artist: Artist) -> None:
    form = {"data": {"prompt": "blue"}, "files": {"image": ("in.png", picture(), "image/png")}}
    job_id = (await http.post("/v1/images/edits", **form)).json()["jobs"][0]
    url = (await http.get(f"/v1/jobs/{job_id}")).json()["artifacts"][0]["url"]
    assert (await http.get(url)).status_code == 200
    await http.delete(f"/v1/jobs/{job_id}")
    assert (await http.get(url)).status_code == 404
    kept = [path for path in (router.settings.data_dir / "artifacts").rglob("*") if path.is_file()]
    assert kept == []


async def test_jobs_are_listed_by_status(http: httpx.AsyncClient, artist: Artist) -> None:
    done = await create(http)
    async for _ in read_events(http, done):
        pass
    artist.allowed.clear()
    artist.denoising.clear()
    running = await create(http)
    waiting = await create(http)
    await asyncio.wait_for(artist.denoising.wait(), DEADLINE)

    async def listed(**query: object) -> list[str]:
        return (await http.get("/v1/jobs", params=query)).json()["ids"]

    assert await listed() == [waiting, running, done]
    assert await listed(limit=1) == [waiting]
    assert await listed(status="completed") == [done]
    assert running in await listed(status="in_progress")
    assert await listed(status="failed") == []


FAILURES = [
    (stage_pb2.FAILURE_KIND_INVALID_REQUEST, 400, "invalid_request"),
    (stage_pb2.FAILURE_KIND_TOO_LARGE, 400, "too_large"),
    (stage_pb2.FAILURE_KIND_MODEL_ERROR, 500, "model_error"),
]


@pytest.mark.parametrize(("kind", "status", "code"), FAILURES)
async def test_a_failed_job_says_why(
    http: httpx.AsyncClient, artist: Artist, kind: stage_pb2.FailureKind.ValueType, status: int, code: str
) -> None:
    artist.failure = (kind, "guidance_scale: this model has none")
    answer = await http.post("/v1/images/generations", json={**BODY, "n": 2})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert "this model has none" in error["message"]
    failed = [job for job in (await http.get("/v1/jobs")).json()["data"] if job["status"] == "failed"]
    assert failed[0]["error"]["code"] == code


async def test_a_deadline_that_passes_is_a_504(http: httpx.AsyncClient, artist: Artist) -> None:
    artist.allowed.clear()
    answer = await http.post("/v1/images/generations", json={**BODY, "timeout_seconds": 1.5})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    await until(lambda: len(artist.cancelled) == 1)


async def test_health_readiness_and_metrics(http: httpx.AsyncClient, artist: Artist) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "diffusion_router_build_info" in metrics.text
