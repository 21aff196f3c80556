"""Adapters from a request to the workers, and what clients are told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from openai import AsyncOpenAI

from contract.api.artist import Artist, picture, until
from contract.api.test_grpc_twin import create, finished, refusal
from contract.router.conftest import DEADLINE, Router, Start
from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2

GENERATIONS = "/v1/images/generations"


@pytest.fixture
async def painter(router: Router) -> AsyncIterator[Artist]:
    """A worker that offers two adapters."""
    worker = Artist(router.target, adapters=["ink", "house"])
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


def named(worker: Artist) -> list[tuple[str, float | None]]:
    """As its last task has them."""
    adapters = worker.executed[-1].parameters.adapters
    return [(adapter.name, adapter.scale if adapter.HasField("scale") else None) for adapter in adapters]


async def test_they_reach_the_workers_by_every_way_and_are_shown(
    router: Router, http: httpx.AsyncClient, painter: Artist, client: AsyncOpenAI
) -> None:
    adapters = [{"name": "house", "scale": 0.5}, {"name": "ink"}]
    wanted = [("house", 0.5), ("ink", None)]
    await client.images.generate(model="scripted", prompt="x", extra_body={"adapters": adapters})
    assert named(painter) == wanted
    form = {"data": {"prompt": "x", "lora": "ink"}, "files": {"image": ("a.png", picture(), "image/png")}}
    assert (await http.post("/v1/images/edits", **form)).status_code == 200
    assert named(painter) == [("ink", None)]
    answer = await http.post("/v1/jobs", json={"prompt": "x", "loras": adapters})
    assert answer.json()["data"][0]["parameters"]["adapters"] == [
        {"name": "house", "scale": 0.5},
        {"name": "ink", "scale": None},
    ]
    job = (await create(router, adapters=[stage_pb2.Adapter(**adapter) for adapter in adapters])).job
    assert [adapter.name for adapter in job.parameters.adapters] == ["house", "ink"]
    await finished(router, job.id)


async def test_one_that_no_denoiser_offers_is_refused_with_those_that_there_are(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "adapters": ["ink", {"name": "oil"}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "adapters[1].name")
    assert "'oil' is not offered here; there are house, ink" in error["message"]
    assert "add it to spec.model.adapters" in error["message"]
    asked = create(router, adapters=[stage_pb2.Adapter(name="oil")])
    words, trailer = await refusal(asked, grpc.StatusCode.INVALID_ARGUMENT)
    assert "there are house, ink" in words
    assert trailer["field"] == "adapters[0].name"
    assert painter.executed == []


async def test_a_pipeline_without_any_says_so(http: httpx.AsyncClient, artist: Artist) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "lora": "ink"})
    assert answer.status_code == 400
    assert "this pipeline has no adapters" in answer.json()["error"]["message"]


async def test_before_a_denoiser_is_there_each_may_yet_be_offered(router: Router, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/jobs", json={"prompt": "x", "output_format": "png", "adapters": ["ink"]})
    assert answer.status_code == 202
    worker = Artist(router.target, adapters=["ink"])
    await worker.attach()
    worker.work()
    await until(lambda: bool(worker.executed))
    assert named(worker) == [("ink", None)]
    await worker.cut()


async def test_a_model_may_be_an_adapters_name_as_clients_of_vllm_have_it(
    http: httpx.AsyncClient, painter: Artist, client: AsyncOpenAI
) -> None:
    models = {model.id: model.model_dump() for model in (await client.models.list()).data}
    assert list(models) == ["scripted", "house", "ink"]
    assert models["ink"]["parent"] == "scripted"
    assert "parent" not in models["scripted"]
    assert (await client.models.retrieve("ink")).id == "ink"
    await client.images.generate(model="ink", prompt="x")
    assert named(painter) == [("ink", None)]
    await client.images.generate(model="ink", prompt="x", extra_body={"adapters": ["house"]})
    assert named(painter) == [("ink", None), ("house", None)]
    await client.images.generate(model="ink", prompt="x", extra_body={"lora": {"name": "ink", "scale": 0.3}})
    assert named(painter) == [("ink", 0.3)]
    assert (await http.get("/v1/jobs")).json()["data"][0]["model"] == "scripted"
    assert (await http.post(GENERATIONS, json={"prompt": "x", "model": "oil"})).status_code == 404
    assert (await http.post(GENERATIONS, json={"prompt": "x", "model": "ink", "lora": "oil"})).status_code == 400


async def test_an_adapters_name_is_known_as_a_model_while_denoisers_are_away(
    http: httpx.AsyncClient, painter: Artist
) -> None:
    assert len((await http.get("/v1/models")).json()["data"]) == 3
    await painter.report(drained=peer_pb2.Drained())
    async with asyncio.timeout(DEADLINE):
        while (await http.get("/readyz")).status_code == 200:
            pass
    answer = await http.post("/v1/jobs", json={"prompt": "x", "model": "ink", "output_format": "png"})
    assert answer.json()["data"][0]["parameters"]["adapters"] == [{"name": "ink", "scale": None}]


async def counted(http: httpx.AsyncClient) -> dict[str, float]:
    lines = (await http.get("/metrics")).text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("diffusion_router_adapter")]
    return {name: float(value) for name, value in pairs if "_created" not in name}


async def test_what_workers_say_later_counts_and_metrics_have_numbers_but_no_names(
    http: httpx.AsyncClient, painter: Artist
) -> None:
    before = await counted(http)
    assert before['diffusion_router_adapter_requests_total{adapters="2"}'] == 0
    for loads in ({"ink": 1}, {"ink": 1, "house": 1}, {"ink": 3, "house": 1}):
        beat = peer_pb2.Heartbeat(adapters=painter.offering(2.0, **loads))
        await painter.report(heartbeat=beat)
    await painter.report(heartbeat=peer_pb2.Heartbeat(slots_used=1))
    assert (await http.post(GENERATIONS, json={"prompt": "x", "adapters": ["ink", "house"]})).status_code == 200
    after = await counted(http)
    assert after.pop('diffusion_router_adapter_requests_total{adapters="2"}') == 1
    assert after.pop("diffusion_router_adapter_loads_total") == 4
    assert after.pop("diffusion_router_adapter_load_seconds_total") == 8.0
    assert not any(after.values())
    painter._adapters = ["oil", "oil on canvas", "ö" * 3, ""]
    await painter.report(heartbeat=peer_pb2.Heartbeat(adapters=painter.offering()))
    # A task's reports come by the same stream, after it.
    assert (await http.post(GENERATIONS, json={"prompt": "x"})).status_code == 200
    models = (await http.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["scripted", "oil"]


async def test_a_restarted_router_knows_which_adapters_its_jobs_name(start_router: Start) -> None:
    first = await start_router(lease_seconds=300.0)
    job = (await create(first, output_format="png", adapters=[stage_pb2.Adapter(name="ink")])).job
    await first.shut_down()
    second = await start_router(lease_seconds=300.0, settle_seconds=0.0)
    workers = [Artist(second.target), Artist(second.target, adapters=["ink"])]
    for worker in workers:
        await worker.attach()
        worker.work()
    assert (await finished(second, job.id)).status == job_pb2.JOB_STATUS_COMPLETED
    denoised = [
        [task.job_id for task in worker.executed if task.stage == stage_pb2.STAGE_DENOISE] for worker in workers
    ]
    assert denoised == [[], [job.id]]
    for worker in workers:
        await worker.cut()
