"""The scheduler that a request names, from the request to the workers, and what clients are told of those there are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

from contract.api.artist import Artist, picture, until
from contract.api.test_grpc_twin import create, finished, refusal
from contract.router.conftest import Router

GENERATIONS = "/v1/images/generations"


@pytest.fixture
async def painter(router: Router) -> AsyncIterator[Artist]:
    """A worker that offers two, and an adapter."""
    worker = Artist(router.target, adapters=["ink"], schedulers=["karras", "ancestral"])
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


async def test_it_reaches_the_workers_by_every_way_and_is_shown(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    assert (await http.post(GENERATIONS, json={"prompt": "x", "scheduler": "karras"})).status_code == 200
    assert [one.parameters.scheduler for one in painter.executed] == ["karras"] * 3
    form = {"data": {"prompt": "x", "scheduler": "ancestral"}, "files": {"image": ("a.png", picture(), "image/png")}}
    assert (await http.post("/v1/images/edits", **form)).status_code == 200
    assert painter.executed[-1].parameters.scheduler == "ancestral"
    answer = await http.post("/v1/jobs", json={"prompt": "x", "scheduler": "karras", "output_format": "png"})
    assert answer.json()["data"][0]["parameters"]["scheduler"] == "karras"
    job = (await create(router, scheduler="karras")).job
    assert job.parameters.scheduler == "karras"
    await finished(router, job.id)


async def test_one_that_no_denoiser_offers_is_refused_with_those_that_there_are(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    for path in (GENERATIONS, "/v1/jobs"):
        answer = await http.post(path, json={"prompt": "x", "scheduler": "ddim"})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "scheduler")
        assert "'ddim' is not offered here; there are ancestral, karras" in error["message"]
        assert "add it to spec.model.schedulers" in error["message"]
    words, trailer = await refusal(create(router, scheduler="ddim"), grpc.StatusCode.INVALID_ARGUMENT)
    assert "there are ancestral, karras" in words
    assert trailer["field"] == "scheduler"
    assert painter.executed == []
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_a_pipeline_without_any_says_so(http: httpx.AsyncClient, artist: Artist) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "scheduler": "karras"})
    assert answer.status_code == 400
    assert "this pipeline has the model's own alone" in answer.json()["error"]["message"]


async def test_before_a_denoiser_is_there_each_may_yet_be_offered(router: Router, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/jobs", json={"prompt": "x", "output_format": "png", "scheduler": "karras"})
    assert answer.status_code == 202
    worker = Artist(router.target, schedulers=["karras"])
    await worker.attach()
    worker.work()
    await until(lambda: bool(worker.executed))
    assert worker.executed[0].parameters.scheduler == "karras"
    await worker.cut()


async def test_a_served_model_is_listed_with_them_and_they_are_no_adapters(
    http: httpx.AsyncClient, painter: Artist
) -> None:
    models = (await http.get("/v1/models")).json()["data"]
    assert [one["id"] for one in models] == ["scripted", "ink"]
    assert models[0]["schedulers"] == ["ancestral", "karras"]
    assert (await http.get("/v1/models/scripted")).json()["schedulers"] == ["ancestral", "karras"]
    assert (await http.post(GENERATIONS, json={"prompt": "x", "model": "karras"})).status_code == 404
