"""All roles scaled to zero: what is asked meanwhile waits until there are workers again, by every way of asking."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from contract.api.artist import Artist
from contract.router.conftest import DEADLINE, Router
from diffusionpipeline.v1 import peer_pb2, registry_pb2
from testbed.waiting import eventually

WAYS = {
    "images": ("/v1/images/generations", {"prompt": "a red seven", "model": "scripted"}),
    "jobs": ("/v1/jobs", {"prompt": "a red seven", "model": "scripted"}),
    "jobs, without a model": ("/v1/jobs", {"prompt": "a red seven"}),
}


async def working(router: Router) -> Artist:
    worker = await Artist(router.target).attach()
    worker.work()
    return worker


async def leave(router: Router, worker: Artist) -> None:
    """As one does whose scaler takes it away."""
    await worker.report(drained=peer_pb2.Drained())

    async def gone() -> bool:
        return not (await router.registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)).peers

    await eventually(gone, DEADLINE, "it is gone")
    await worker.cut()


async def statuses(http: httpx.AsyncClient) -> list[str]:
    return sorted(job["status"] for job in (await http.get("/v1/jobs")).json()["data"])


@pytest.mark.parametrize(("path", "body"), WAYS.values(), ids=WAYS)
async def test_it_waits_for_the_model_that_was_served_last(
    router: Router, http: httpx.AsyncClient, path: str, body: dict[str, str]
) -> None:
    first = await working(router)
    assert (await http.post("/v1/images/generations", json=body)).status_code == 200
    await leave(router, first)
    asked = asyncio.create_task(http.post(path, json=body))

    async def is_accepted() -> bool:
        return await statuses(http) == ["completed", "queued"]

    async def all_done() -> bool:
        return await statuses(http) == ["completed", "completed"]

    await eventually(is_accepted, DEADLINE, "it is accepted, and waits")
    second = await working(router)
    await eventually(all_done, DEADLINE, "it is done")
    assert (await asked).status_code == (202 if path == "/v1/jobs" else 200)
    await second.cut()


async def test_another_model_is_still_refused(router: Router, http: httpx.AsyncClient) -> None:
    first = await working(router)
    assert (await http.post("/v1/images/generations", json={"prompt": "a red seven"})).status_code == 200
    await leave(router, first)
    answer = await http.post("/v1/images/generations", json={"prompt": "a red seven", "model": "another"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
