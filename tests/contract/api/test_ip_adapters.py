"""IP-Adapters from a request to the workers, and what clients are told of them."""

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
from diffusionpipeline.words import CONTROLS, IP_ADAPTERS

GENERATIONS, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
ONE, OTHER, IMAGE = picture(shade=1), picture(shade=2), picture(shade=3)
STYLE, FACE = stage_pb2.IPAdapter(name="style", scale=0.5), stage_pb2.IPAdapter(name="face")


@pytest.fixture
async def painter(router: Router) -> AsyncIterator[Artist]:
    """A worker that offers two IP-Adapters, a ControlNet and a LoRA adapter of one's name."""
    worker = Artist(router.target, adapters=["face"], control_nets=["edges"], ip_adapters=["style", "face"])
    await worker.attach()
    worker.work()
    yield worker
    await worker.cut()


def inline(name: str, data: bytes, **rest: Any) -> dict[str, Any]:
    return {"name": name, "image": base64.b64encode(data).decode(), **rest}


def shown_by(router: Router, worker: Artist) -> list[tuple[stage_pb2.IPAdapter, bytes]]:
    """As the last task has them, each with its picture."""
    parameters = worker.executed[-1].parameters
    files = [file for file in parameters.inputs if file.name == IP_ADAPTERS]
    folder = router.settings.data_dir / "artifacts"
    return [(one, (folder / file.key).read_bytes()) for one, file in zip(parameters.ip_adapters, files, strict=True)]


async def test_they_reach_the_workers_with_their_pictures_by_every_way_and_are_shown(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    painter.allowed.clear()
    given = [inline("style", ONE, scale=0.5), inline("face", OTHER)]
    job = (await http.post(JOBS, json={"prompt": "x", "ip_adapters": given})).json()["data"][0]
    await painter.denoising.wait()
    assert shown_by(router, painter) == [(STYLE, ONE), (FACE, OTHER)]
    assert job["parameters"]["ip_adapters"] == [{"name": "style", "scale": 0.5}, {"name": "face", "scale": None}]
    await http.delete(f"{JOBS}/{job['id']}")

    painter.denoising.clear()
    texts = {"prompt": "x", "ip_adapters": json.dumps([{"name": "style", "scale": 0.5}, {"name": "face"}])}
    own = "ip_adapters[image]"
    files = [(own, ("a.png", ONE)), ("image", ("i.png", IMAGE)), (own, ("b.png", OTHER))]
    answer = await http.post(JOBS, data=texts, files=files)
    assert answer.status_code == 202, answer.text
    await painter.denoising.wait()
    assert shown_by(router, painter) == [(STYLE, ONE), (FACE, OTHER)]
    assert [file.name for file in painter.executed[-1].parameters.inputs] == [IP_ADAPTERS, "image", IP_ADAPTERS]
    painter.allowed.set()


async def test_a_request_may_have_controls_beside_them_each_with_its_own_picture(
    router: Router, http: httpx.AsyncClient, painter: Artist
) -> None:
    texts = {"prompt": "x", "controls": '[{"name": "edges"}]', "ip_adapters": '[{"name": "face"}]'}
    files = [("ip_adapters[image]", ("a.png", ONE)), ("image", ("i.png", IMAGE)), ("controls[image]", ("b.png", OTHER))]
    by_form = await http.post(EDITS, data=texts, files=files)
    given = {"controls": [inline("edges", OTHER)], "ip_adapters": [inline("face", ONE)]}
    by_json = await http.post(GENERATIONS, json={"prompt": "x", **given})
    assert [answer.status_code for answer in (by_form, by_json)] == [200, 200], (by_form.text, by_json.text)
    assert shown_by(router, painter) == [(FACE, ONE)]
    assert [control.name for control in painter.executed[-1].parameters.controls] == ["edges"]
    brought = [{file.name for file in task.parameters.inputs} for task in painter.executed]
    assert brought == [{CONTROLS, "image", IP_ADAPTERS}] * 3 + [{CONTROLS, IP_ADAPTERS}] * 3


async def test_one_that_no_denoiser_offers_is_refused_with_those_that_there_are(
    http: httpx.AsyncClient, painter: Artist
) -> None:
    given = [inline("style", ONE), inline("edges", ONE)]
    answer = await http.post(GENERATIONS, json={"prompt": "x", "ip_adapters": given})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "ip_adapters[1].name")
    assert "IP-Adapter 'edges' is not offered here; there are face, style" in error["message"]
    assert "add it to spec.model.ipAdapters" in error["message"]
    assert painter.executed == []


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"name": "style"}, "ip_adapters[0].image"),
        ({"name": "style", "image": "bm90IGEgcGljdHVyZQ=="}, "ip_adapters[0].image"),
        ({"name": "style", "image": "/etc/passwd"}, "ip_adapters[0].image"),
        ({"name": "style", "image": "https://example.com/a.png"}, "ip_adapters[0].image"),
    ],
    ids=["none", "no picture", "a path", "an address"],
)
async def test_without_a_picture_it_is_refused(
    http: httpx.AsyncClient, painter: Artist, given: dict[str, str], param: str
) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "ip_adapters": [given]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert painter.executed == []


async def test_a_picture_of_a_control_is_none_of_an_ip_adapter(http: httpx.AsyncClient, painter: Artist) -> None:
    files = {"image": ("i.png", IMAGE), "controls[image]": ("c.png", ONE)}
    answer = await http.post(EDITS, data={"prompt": "x", "ip_adapters": '[{"name": "style"}]'}, files=files)
    assert answer.status_code == 400
    assert "controls[image]" in answer.json()["error"]["message"]
    controls = {"controls": '[{"name": "edges"}]', "ip_adapters": '[{"name": "style"}]'}
    answer = await http.post(EDITS, data={"prompt": "x", **controls}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "ip_adapters[0].image")
    assert painter.executed == []


async def test_a_pipeline_without_any_says_so(http: httpx.AsyncClient, artist: Artist) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "x", "ip_adapters": [inline("style", ONE)]})
    assert answer.status_code == 400
    assert "this pipeline has no IP-Adapters" in answer.json()["error"]["message"]


async def test_the_model_lists_them_and_each_name_is_of_its_kind(http: httpx.AsyncClient, painter: Artist) -> None:
    models = (await http.get("/v1/models")).json()["data"]
    assert [(model["id"], model.get("ip_adapters"), model.get("control_nets")) for model in models] == [
        ("scripted", ["face", "style"], ["edges"]),
        ("face", None, None),
    ]
    for other in (
        {"adapters": ["style"]},
        {"model": "style"},
        {"adapters": ["IP-Adapter style"]},
        {"controls": [inline("style", ONE)]},
    ):
        assert (await http.post(GENERATIONS, json={"prompt": "x", **other})).status_code in (400, 404)
    await painter.report(heartbeat=peer_pb2.Heartbeat(slots_used=1))
    shown = await http.post(GENERATIONS, json={"prompt": "x", "ip_adapters": [inline("style", ONE)]})
    assert shown.status_code == 200, "a heartbeat that says nothing of them takes none away"
