"""Requests with different schedulers through one pipeline of real processes: each gets its own, as one process does."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from diffusion_worker.model import Parameters, SchedulerKind, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES
from integration.conftest import SCHEDULERS, Extended
from testbed.pipelines import at_rest, draw
from testbed.waiting import until

NAMES = (None, "karras", "drawn")

pytestmark = pytest.mark.usefixtures("one_thread")


async def test_each_request_is_denoised_by_the_scheduler_that_it_names(extended: Extended) -> None:
    local, expected = extended.local, whole()
    assert len(set(expected.values())) == len(NAMES)
    async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
        names = [*NAMES] * 3
        asked = [draw(client, "a red seven", 7, **({"scheduler": name} if name else {})) for name in names]
        for name, answer in zip(names, await asyncio.gather(*asked), strict=True):
            assert answer.picture == expected[name], name
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert model["schedulers"] == ["drawn", "karras"]
        refused = await client.post("/v1/images/generations", json={"prompt": "x", "scheduler": "ddim"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scheduler")
    until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")


def whole() -> dict[str | None, bytes]:
    """What one process makes by each."""
    model = load_model(
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(STAGES),
        dtype="float32",
        device="cpu",
        schedulers=[SchedulerKind(one["name"], one["class"], one["options"]) for one in SCHEDULERS],
    )
    made = {}
    for name in NAMES:
        request = Parameters(prompt="a red seven", seed=7, scheduler=name)
        (picture,) = model.decode(model.denoise(model.encode(request), request, Direct()))
        made[name] = picture.data
    return made
