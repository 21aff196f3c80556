"""Requests of different lengths in one denoiser: they join, leave and are cancelled, and each gets its own picture."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.pipelines import Answer, at_rest, draw, metric, running
from testbed.waiting import until

REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": "a red seven", "seed": 1, "num_inference_steps": 60},
    {"prompt": "a blue three", "seed": 2, "num_inference_steps": 40},
    {"prompt": "a green one", "seed": 3, "num_inference_steps": 50},
    {"prompt": "a yellow eight", "seed": 4, "num_inference_steps": 45, "exact": True},
)
# The longest that a request may be: it is still there when the others have joined.
LONG = {"prompt": "a white zero", "seed": 5, "num_inference_steps": 200}
# Of 255: latents differ by rounding, which the last bit of a pixel may show.
TOLERANCE = 2


async def test_each_gets_its_own_picture_from_forwards_that_they_share(tmp_path: Path) -> None:
    document = resource("digits", roles__denoiser__batching={"mode": "Requests", "maxRequests": 8})
    with running(document, tmp_path) as local:
        (denoiser,) = (pod for pod in local.workers if pod.role == "denoiser")

        def forwards(kind: str) -> float:
            return metric(denoiser.health_url, f"diffusion_worker_forward_requests_{kind}")

        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            alone = [await draw(client, **{**request, "exact": True}) for request in REQUESTS]
            assert forwards("count") == forwards("sum"), "one request at a time shares nothing"
            count, total = forwards("count"), forwards("sum")
            (cancelled,) = (await client.post("/v1/jobs", json=LONG)).json()["data"]
            drawing = [asyncio.create_task(draw(client, **request)) for request in REQUESTS]

            def saved() -> float:
                return forwards("sum") - total - (forwards("count") - count)

            await asyncio.to_thread(until, lambda: saved() > 20, 30, "they share forwards")
            assert (await client.delete(f"/v1/jobs/{cancelled['id']}")).json()["status"] == "cancelled"
            together = await asyncio.gather(*drawing)
            assert forwards("sum") - total > 1.2 * (forwards("count") - count), "they shared forwards"
            until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")
    for request, one, other in zip(REQUESTS, alone, together, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= TOLERANCE, request
        if request.get("exact"):
            assert one.picture == other.picture


async def test_pictures_of_one_request_are_encoded_once(split: LocalPipeline) -> None:
    (encoder,) = (pod for pod in split.workers if pod.role == "encoder")

    def encoded() -> float:
        return metric(encoder.health_url, "diffusion_worker_tasks_total", role="encoder", outcome="done")

    async with httpx.AsyncClient(base_url=split.http_url, timeout=60) as client:
        before = encoded()
        # A prompt that no other test of this pipeline has.
        body = {"prompt": "four red sevens", "seed": 7, "n": 4}
        answer = (await client.post("/v1/images/generations", json=body)).raise_for_status().json()
        assert encoded() - before == 1
        pictures = [base64.b64decode(one["b64_json"]) for one in answer["data"]]
        alone = [await draw(client, "four red sevens", seed) for seed in (7, 8, 9, 10)]
        assert pictures == [one.picture for one in alone]
        jobs = [(await client.get(f"/v1/jobs/{job}")).json() for job in answer["jobs"]]
        shared = [stage["shared"] for job in jobs for stage in job["stages"] if stage["stage"] == "encode"]
        assert sorted(shared) == [False, True, True, True]
        until(lambda: at_rest(split), 15, "the encoder's slot is given back once all have read it")


def pixels(answer: Answer) -> Any:
    return np.asarray(Image.open(io.BytesIO(answer.picture)).convert("RGB")).astype(int)
