"""A client cancels a long job at a step: it stops at the next one, and everything is given back."""

from __future__ import annotations

import asyncio

import httpx

from dpipe.up.local import LocalPipeline
from testbed.pipelines import at_rest, draw, metric
from testbed.waiting import until

STEPS = 200


async def test_a_cancelled_job_stops_at_the_next_step_and_a_hung_up_client_cancels_its_job(
    split: LocalPipeline,
) -> None:
    (denoiser,) = (pod for pod in split.workers if pod.role == "denoiser")
    async with httpx.AsyncClient(base_url=split.http_url, timeout=30) as client:
        await draw(client, "a red seven", 1)

        def steps() -> float:
            return metric(denoiser.health_url, "diffusion_worker_steps_total")

        def cancelled() -> float:
            return metric(split.http_url, "diffusion_router_requests_total", status="cancelled")

        base, before = steps(), cancelled()
        long = {"prompt": "a red seven", "seed": 1, "num_inference_steps": STEPS}
        (job,) = (await client.post("/v1/jobs", json=long)).json()["data"]
        await asyncio.to_thread(until, lambda: steps() > base + 3, 30, "it is being denoised")
        answer = await client.delete(f"/v1/jobs/{job['id']}")
        assert answer.json()["status"] == "cancelled", answer.text
        at_cancel = steps()
        until(lambda: at_rest(split), 15, "slots, outputs and tasks are given back")
        assert steps() - at_cancel <= 2
        assert steps() - base < STEPS

        base = steps()
        request = asyncio.create_task(client.post("/v1/images/generations", json=long))
        await asyncio.to_thread(until, lambda: steps() > base + 3, 30, "it is being denoised")
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        until(lambda: at_rest(split), 15, "the hung-up client's job is given back")
        assert steps() - base < STEPS
        assert cancelled() - before == 2
        await draw(client, "a red seven", 1)
