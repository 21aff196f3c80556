"""The order of jobs that a resource asks for, with real workers: a long one gives way to a short one, unharmed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, at_rest, draw, metric, ready, running
from testbed.waiting import eventually, until

PROMPT = "a red seven"
# Of digits, a few seconds: what is about to end is not parked.
LONG = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 300}
SHORT = {"num_inference_steps": 4}


def pipeline(**scheduling: object) -> dict[str, Any]:
    return resource("digits", roles__router__args=["--max-steps=300", "--settle-seconds=0.5"], scheduling=scheduling)


async def job_of(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    return (await client.get(f"/v1/jobs/{job_id}")).raise_for_status().json()


async def begun(client: httpx.AsyncClient, **terms: object) -> str:
    """The id of a long job that denoises."""
    (job,) = (await client.post("/v1/jobs", json={**LONG, **terms})).raise_for_status().json()["data"]

    async def denoises() -> bool:
        return (await job_of(client, job["id"]))["step"] > 0

    await eventually(denoises, 20, "the long job denoises")
    return job["id"]


async def picture_of(client: httpx.AsyncClient, job_id: str) -> bytes:
    async def completed() -> bool:
        return (await job_of(client, job_id))["status"] == "completed"

    await eventually(completed, 60, "the long job is done")
    (artifact,) = (await job_of(client, job_id))["artifacts"]
    return (await client.get(f"/v1/files/{artifact['key']}")).raise_for_status().content


async def test_a_long_job_is_parked_for_a_short_one_and_makes_the_same_picture(tmp_path: Path) -> None:
    with running(pipeline(), tmp_path / "data") as local:
        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            alone = await picture_of(client, await begun(client))
            await draw(client, PROMPT, 1, **SHORT)
            assert metric(local.http_url, "diffusion_router_parks_total") == 0
            long = await begun(client, target_seconds=60)
            await draw(client, PROMPT, 2, target_seconds=5, **SHORT)
            assert (await job_of(client, long))["status"] == "in_progress", "the short one ends first"
            assert await picture_of(client, long) == alone
            job = await job_of(client, long)
        parked = [stage["parked"] for stage in job["stages"] if stage["parked"]]
        assert parked, "it was parked"
        assert all(0 < one["step"] < one["steps"] == 300 for one in parked)
        parks = metric(local.http_url, "diffusion_router_parks_total", reason="gives_way")
        assert parks == len(parked)
        assert metric(local.http_url, "diffusion_router_targets_total", met="true") >= 2
        until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")


@pytest.mark.thorough
async def test_in_fifo_it_ends_first_and_what_its_request_said_outlives_the_router(tmp_path: Path) -> None:
    with running(pipeline(policy="Fifo"), tmp_path / "data") as local:
        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            long = await begun(client, target_seconds=60, priority="batch", user="someone")
            before = await job_of(client, long)
            await asyncio.to_thread(kill_router, local)
            after = await job_of(client, long)
            told = ("created_at", "target_at", "priority")
            assert [after[name] for name in told] == [before[name] for name in told]
            assert (before["target_at"] - before["created_at"], before["priority"]) == (60, "batch")
            short = await draw(client, PROMPT, 2, target_seconds=5, priority="interactive", **SHORT)
            (ended,) = [await job_of(client, job) for job in short.jobs]
            job = await job_of(client, long)
        assert job["status"] == "completed"
        assert job["completed_at"] < ended["completed_at"], "the older one ends first"
        assert not any(stage["parked"] for stage in job["stages"])
        assert metric(local.http_url, "diffusion_router_parks_total") == 0


def kill_router(local: LocalPipeline) -> None:
    assert local.router.signal(signal.SIGKILL)
    until(lambda: ready(local), STARTUP_SECONDS, "the router is back with its workers")
