"""Of the denoisers those take a job that offer what it names; a router that was started again knows that as well."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from contract.api.artist import Artist, picture, until
from contract.router.conftest import Start
from diffusionpipeline.v1 import stage_pb2

JOBS = "/v1/jobs"
PICTURE = base64.b64encode(picture()).decode()


@pytest.mark.parametrize(
    ("named", "offered"),
    [
        ({"adapters": [{"name": "ink"}]}, {"adapters": ["ink"]}),
        ({"controls": [{"name": "edges", "image": PICTURE}]}, {"control_nets": ["edges"]}),
        ({"ip_adapters": [{"name": "style", "image": PICTURE}]}, {"ip_adapters": ["style"]}),
        ({"scheduler": "karras"}, {"schedulers": ["karras"]}),
    ],
    ids=["adapters", "controls", "ip_adapters", "scheduler"],
)
async def test_after_a_restart(start_router: Start, named: dict[str, Any], offered: dict[str, Any]) -> None:
    first = await start_router(lease_seconds=300.0)
    async with httpx.AsyncClient(base_url=first.url) as http:
        asked = {"prompt": "x", "output_format": "png", **named}
        job = (await http.post(JOBS, json=asked)).json()["data"][0]["id"]
    await first.shut_down()
    second = await start_router(lease_seconds=300.0, settle_seconds=0.0)
    workers = [Artist(second.target), Artist(second.target, **offered)]
    for worker in workers:
        await worker.attach()
        worker.work()
    await until(lambda: any(one.stage == stage_pb2.STAGE_DECODE for w in workers for one in w.executed))
    denoised = [
        [task.job_id for task in worker.executed if task.stage == stage_pb2.STAGE_DENOISE] for worker in workers
    ]
    assert denoised == [[], [job]]
    for worker in workers:
        await worker.cut()
