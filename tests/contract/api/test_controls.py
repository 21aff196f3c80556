"""ControlNets from a request to the workers, and what clients are told of them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from contract.api.artist import Artist, picture
from contract.router.conftest import Router
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import CONTROLS

GENERATIONS, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
ONE, OTHER, IMAGE = picture(shade=1), picture(shade=2), picture(shade=3)


@pytest.fixture
async def painter(router: Router) -> AsyncIterator[Artist]:
    """A worker that offers two ControlNets and an adapter."""
    worker = Artist(router.target, adapters=["ink"], control_nets=["edges", "depth"])
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


def inline(name: str, data: bytes, **rest: Any) -> dict[str, Any]:
    return {"name": name, "image": base64.b64encode(data).decode(), **rest}


def led_by(router: Router, worker: Artist) -> list[tuple[stage_pb2.Control, bytes]]:
    """As the last task has them, each with its picture."""
    parameters = worker.executed[-1].parameters
    files = [file for file in parameters.inputs if file.name == CONTROLS]
    folder = router.settings.data_dir / "artifacts"
    return [(one, (folder / file.key).read_bytes()) for one, file in zip(parameters.controls, files, strict=True)]


async def test_they_reach_the_workers_with_their_pictures_by_every_way_and_are_shown(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    depth, edges = stage_pb2.Control(name="depth", scale=0.5, end=0.75), stage_pb2.Control(name="edges")
    wanted = [(depth, ONE), (edges, OTHER)]
    painter.allowed.clear()
    controls = [inline("depth", ONE, scale=0.5, end=0.75), inline("edges", OTHER)]
    job = (await http.post(JOBS, json={"prompt": "x", "controls": controls})).json()["data"][0]
    await painter.denoising.wait()
    assert led_by(router, painter) == wanted
    unsaid = {"scale": None, "start": None, "end": None, "mode": None}
    assert job["parameters"]["controls"] == [
        {"name": "depth", **unsaid, "scale": 0.5, "end": 0.75},
        {"name": "edges", **unsaid},
    ]
    await http.delete(f"{JOBS}/{job['id']}")

    painter.denoising.clear()
    texts = {"prompt": "x", "controls": json.dumps([{"name": "depth", "scale": 0.5, "end": 0.75}, {"name": "edges"}])}
    files = [("controls[image]", ("a.png", ONE)), ("image", ("i.png", IMAGE)), ("controls[image]", ("b.png", OTHER))]
    answer = await http.post(JOBS, data=texts, files=files)
    assert answer.status_code == 202, answer.text
    await painter.denoising.wait()
    assert led_by(router, painter) == wanted
    assert [file.name for file in painter.executed[-1].parameters.inputs] == [CONTROLS, "image", CONTROLS]
    painter.allowed.set()


async def test_one_that_no_denoiser_offers_is_refused_with_those_that_there_are(
    http: httpx.AsyncClient, painter: Artist
) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "controls": [inline("edges", ONE), inline("ink", ONE)]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "controls[1].name")
    assert "ControlNet 'ink' is not offered here; there are depth, edges" in error["message"]
    assert "add it to spec.model.controlNets" in error["message"]
    assert painter.executed == []


@pytest.mark.parametrize(
    ("control", "param"),
    [
        ({"name": "edges"}, "controls[0].image"),
        ({"name": "edges", "image": "bm90IGEgcGljdHVyZQ=="}, "controls[0].image"),
        ({"name": "edges", "image": "/etc/passwd"}, "controls[0].image"),
    ],
    ids=["none", "no picture", "a path"],
)
async def test_without_a_picture_it_is_refused(
    http: httpx.AsyncClient, painter: Artist, control: dict[str, str], param: str
) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "controls": [control]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    files = {"image": ("i.png", IMAGE), "controls[image]": ("c.png", ONE)}
    two = json.dumps([{"name": "edges"}, {"name": "depth"}])
    answer = await http.post(EDITS, data={"prompt": "x", "controls": two}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "controls[1].image")
    assert painter.executed == []


async def test_a_pipeline_without_any_says_so(http: httpx.AsyncClient, artist: Artist) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "controls": [inline("edges", ONE)]})
    assert answer.status_code == 400
    assert "this pipeline has no ControlNets" in answer.json()["error"]["message"]


async def test_the_model_lists_them_and_they_are_no_adapters(http: httpx.AsyncClient, painter: Artist) -> None:
    models = (await http.get("/v1/models")).json()["data"]
    assert [(model["id"], model.get("control_nets")) for model in models] == [
        ("scripted", ["depth", "edges"]),
        ("ink", None),
    ]
    for other in ({"adapters": ["edges"]}, {"model": "edges"}, {"adapters": ["ControlNet edges"]}):
        assert (await http.post(GENERATIONS, json={"prompt": "x", **other})).status_code in (400, 404)
    await painter.report(heartbeat=peer_pb2.Heartbeat(slots_used=1))
    led = await http.post(GENERATIONS, json={"prompt": "x", "controls": [inline("edges", ONE)]})
    assert led.status_code == 200, "a heartbeat that says nothing of them takes none away"
