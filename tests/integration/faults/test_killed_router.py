"""I7: the router dies under load and is started again on its store."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx

from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, Load, at_rest, draw, metric, peers, ready, running
from testbed.waiting import until

JOBS = 12
STEPS = 30


class Distinct(Load):
    """Jobs of one prompt would share an encoding if one comes before the other's is made."""

    REQUESTS = (*Load.REQUESTS, *((prompt.replace("a ", "two "), seed) for prompt, seed in Load.REQUESTS))


async def test_i7_a_killed_router_loses_no_accepted_job_and_no_held_stage_is_computed_twice(tmp_path: Path) -> None:
    # Each is to be encoded, also those that were learnt.
    document = resource("digits", router__leaseSeconds=10, roles__encoder__cacheShare=0)
    with running(document, tmp_path) as local:
        load = Distinct(local, clients=1, num_inference_steps=STEPS)
        await load.learn()
        before = {pod.name: peers(local)[pod.name].incarnation for pod in local.workers}
        computed = {pod.name: stages_done(pod) for pod in local.workers}
        async with httpx.AsyncClient(base_url=local.http_url) as client:
            accepted: dict[str, str] = {}
            for number in range(JOBS):
                prompt, seed = Distinct.REQUESTS[number]
                body = {"prompt": prompt, "seed": seed, "num_inference_steps": STEPS}
                answer = await client.post("/v1/jobs", json=body)
                assert answer.status_code == 202, answer.text
                (job,) = answer.json()["data"]
                accepted[job["id"]] = f"{prompt} #{seed}"
            # Some are done, one is being denoised, the next one's input is pulled or encoded, the rest wait.
            await asyncio.to_thread(until, lambda: completed(local) >= 2, 60, "two jobs have ended")
            assert local.router.signal(signal.SIGKILL)
        await asyncio.to_thread(until, lambda: ready(local), STARTUP_SECONDS, "the router is back with its workers")
        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            steps: list[int] = []
            for job_id, request in accepted.items():
                job = await ended(client, job_id)
                assert job["status"] == "completed", job
                made = sum(stage["steps"] for stage in job["stages"] if stage["stage"] == "denoise")
                assert made == job["step"] == job["steps"], job
                steps.append(made)
                (artifact,) = job["artifacts"]
                picture = (await client.get(artifact["url"])).content
                assert picture == load.expected[request]
            # Of one whose picture was there already when its worker came back, nobody tells who had denoised it.
            assert steps.count(STEPS) >= JOBS - 1
            await draw(client, "a red seven", 1)
        assert {pod.name: peers(local)[pod.name].incarnation for pod in local.workers} == before
        for pod in local.workers:
            assert stages_done(pod) - computed[pod.name] == JOBS + 1, f"{pod.name} computed a stage twice"
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")


def completed(local) -> int:
    return sum(job["status"] == "completed" for job in httpx.get(f"{local.http_url}/v1/jobs").json()["data"][:JOBS])


def stages_done(pod) -> float:
    return metric(pod.health_url, "diffusion_worker_stage_duration_seconds_count")


async def ended(client: httpx.AsyncClient, job_id: str) -> dict:
    async with asyncio.timeout(120):
        while True:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            if job["status"] in ("completed", "failed", "cancelled"):
                return job
            async with client.stream("GET", f"/v1/jobs/{job_id}/events") as events:
                async for _ in events.aiter_lines():
                    pass
