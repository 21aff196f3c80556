"""A request names a target, a priority and whose it is: over HTTP and gRPC, and after a restart of the router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import httpx
import pytest

from contract.api.artist import Artist, picture
from contract.router.conftest import DEADLINE, Router, Start
from contract.router.scripted_worker import ScriptedWorker
from diffusionpipeline.v1 import job_pb2, stage_pb2
from testbed.waiting import eventually

ASKED = {"prompt": "a red seven", "output_format": "png"}
SERVED = {"target_seconds": 30, "priority": "batch", "user": "someone"}


async def created(http: httpx.AsyncClient, path: str = "/v1/jobs", **request: Any) -> dict[str, Any]:
    answer = await http.post(path, **request)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def told(job: Mapping[str, Any]) -> tuple[float | None, str]:
    """Seconds from its acceptance to its target, and its priority."""
    return job["target_at"] and round(job["target_at"] - job["created_at"], 6), job["priority"]


async def test_the_job_says_what_its_request_did(http: httpx.AsyncClient) -> None:
    (job,) = (await created(http, json={**ASKED, **SERVED}))["data"]
    assert told(job) == (30.0, "batch")
    (job,) = (await created(http, data={**ASKED, **SERVED}, files={"image": picture()}))["data"]
    assert told(job) == (30.0, "batch")
    (job,) = (await created(http, json=ASKED))["data"]
    assert told(job) == (None, "standard")


async def test_pictures_take_them_as_well(http: httpx.AsyncClient, artist: Artist) -> None:
    asked = {"prompt": "a red seven", **SERVED}
    made = await created(http, "/v1/images/generations", json=asked)
    edited = await created(http, "/v1/images/edits", data=asked, files={"image": picture()})
    for job_id in (*made["jobs"], *edited["jobs"]):
        assert told((await http.get(f"/v1/jobs/{job_id}")).json()) == (30.0, "batch")


@pytest.mark.parametrize("as_form", [False, True])
async def test_videos_take_them_as_well(http: httpx.AsyncClient, film_maker: Artist, as_form: bool) -> None:
    asked = {"prompt": "a red seven", **SERVED}
    request = {"files": {name: (None, str(value)) for name, value in asked.items()}} if as_form else {"json": asked}
    video = await created(http, "/v1/videos", **request)
    assert told((await http.get(f"/v1/jobs/{video['id']}")).json()) == (30.0, "batch")


async def test_by_grpc(router: Router) -> None:
    request = job_pb2.CreateJobRequest(
        parameters=stage_pb2.JobParameters(**ASKED),
        target_seconds=30,
        priority=job_pb2.PRIORITY_INTERACTIVE,
        user="someone",
    )
    job = (await router.jobs.CreateJob(request, timeout=DEADLINE)).job
    assert job.target_at - job.created_at == pytest.approx(30)
    assert job.priority == job_pb2.PRIORITY_INTERACTIVE
    plain = job_pb2.CreateJobRequest(parameters=stage_pb2.JobParameters(**ASKED))
    job = (await router.jobs.CreateJob(plain, timeout=DEADLINE)).job
    assert (job.target_at, job.priority) == (0, job_pb2.PRIORITY_STANDARD)


WRONG: list[tuple[str, Any]] = [
    ("target_seconds", 0),
    ("target_seconds", -1),
    ("target_seconds", 1e9),
    ("target_seconds", "soon"),
    ("priority", "urgent"),
    ("priority", 1),
    ("user", "x" * 1025),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_what_cannot_be_is_named(http: httpx.AsyncClient, field: str, value: Any) -> None:
    refused = await http.post("/v1/jobs", json={**ASKED, field: value})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    ("field", "value"), [("target_seconds", -1.0), ("target_seconds", 1e9), ("priority", 17), ("user", "x" * 1025)]
)
async def test_what_cannot_be_is_named_by_grpc(router: Router, field: str, value: Any) -> None:
    request = job_pb2.CreateJobRequest(parameters=stage_pb2.JobParameters(**ASKED), **{field: value})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await router.jobs.CreateJob(request, timeout=DEADLINE)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(refused.value.trailing_metadata() or ())["field"] == field


# In the order in which they come.
REQUESTS: list[dict[str, Any]] = [
    {"prompt": "batch", "priority": "batch"},
    {"prompt": "much time", "target_seconds": 500},
    {"prompt": "little time", "target_seconds": 100},
    {"prompt": "interactive", "priority": "interactive"},
]


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("Deadline", ["interactive", "little time", "much time", "batch"]),
        ("Fifo", ["batch", "much time", "little time", "interactive"]),
    ],
)
async def test_a_router_that_comes_back_serves_jobs_in_the_order_of_their_terms(
    start_router: Start, policy: str, order: list[str]
) -> None:
    first = await start_router(scheduling_policy=policy)
    async with httpx.AsyncClient(base_url=first.url, timeout=20) as http:
        before = [(await created(http, json={**ASKED, **request}))["data"][0] for request in REQUESTS]
    await first.shut_down()
    second = await start_router(scheduling_policy=policy)
    async with httpx.AsyncClient(base_url=second.url, timeout=20) as http:
        after = [(await http.get(f"/v1/jobs/{job['id']}")).json() for job in before]
    assert [told(job) for job in after] == [told(job) for job in before]
    assert await served(second, len(order)) == order


async def test_tenants_get_the_same_share_after_a_restart(start_router: Start) -> None:
    first = await start_router()
    users = ["a", "a", "a", "b", "c"]
    async with httpx.AsyncClient(base_url=first.url, timeout=20) as http:
        for index, user in enumerate(users):
            await created(http, json={**ASKED, "prompt": f"{user}{index}", "user": user})
    await first.shut_down()
    order = await served(await start_router(), len(users))
    assert (sorted(order[:3]), order[3:]) == (["a0", "b3", "c4"], ["a1", "a2"])


async def served(router: Router, count: int) -> list[str]:
    """Prompts in the order in which a denoiser takes them, one at a time, once all are encoded."""
    encoder = await ScriptedWorker(router.target, "encoder", capacity=count).attach()
    encoder.work()
    await eventually(lambda: len(encoder.held) == count, DEADLINE, "all are encoded")
    denoiser = await ScriptedWorker(router.target, "denoiser").attach()
    order = []
    for _ in range(count):
        task = await denoiser.next_task()
        order.append(task.parameters.prompt)
        await denoiser.start(task)
        await denoiser.finish(task)
    return order
