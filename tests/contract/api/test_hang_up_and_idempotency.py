"""A client that hangs up, and a client that asks again."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from contract.api.artist import Artist, picture, until
from contract.router.conftest import DEADLINE, Router, Start
from testbed.waiting import eventually

GENERATIONS = "/v1/images/generations"
BODY = {"prompt": "a red seven", "seed": 3}


async def hang_up(router: Router, artist: Artist, headers: dict[str, str], n: int = 1) -> None:
    """Ask for pictures, and be gone while they are made."""
    artist.allowed.clear()
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as client:
        asking = asyncio.create_task(client.post(GENERATIONS, json={**BODY, "n": n}, headers=headers))
        await asyncio.wait_for(artist.denoising.wait(), DEADLINE)
        asking.cancel()
        await asyncio.wait({asking})


async def statuses(http: httpx.AsyncClient) -> list[str]:
    return [job["status"] for job in (await http.get("/v1/jobs")).json()["data"]]


async def test_a_client_that_hangs_up_cancels_its_jobs(router: Router, http: httpx.AsyncClient, artist: Artist) -> None:
    await hang_up(router, artist, {}, n=3)
    await until(lambda: bool(artist.cancelled))

    async def all_cancelled() -> bool:
        return await statuses(http) == ["cancelled"] * 3

    await eventually(all_cancelled, DEADLINE, "all jobs are cancelled")
    artist.allowed.set()
    assert (await http.post(GENERATIONS, json=BODY)).status_code == 200


async def test_a_client_with_a_key_that_hangs_up_finds_its_job_again(
    router: Router, http: httpx.AsyncClient, artist: Artist
) -> None:
    key = {"Idempotency-Key": "attempt-1"}
    await hang_up(router, artist, key)
    # Another request passes the router's loop after the hang-up did, whose job goes on.
    assert await statuses(http) == ["in_progress"]
    artist.allowed.set()
    again = await http.post(GENERATIONS, json=BODY, headers=key)
    assert again.status_code == 200
    assert await statuses(http) == ["completed"]
    assert artist.cancelled == []


async def test_the_same_key_finds_the_same_pictures(http: httpx.AsyncClient, artist: Artist) -> None:
    key = {"Idempotency-Key": "k"}
    body = {"prompt": "a red seven", "n": 2}
    first = (await http.post(GENERATIONS, json=body, headers=key)).json()
    second = (await http.post(GENERATIONS, json=body, headers=key)).json()
    assert (first["jobs"], first["data"]) == (second["jobs"], second["data"])
    assert len(await statuses(http)) == 2
    other = (await http.post(GENERATIONS, json=body, headers={"Idempotency-Key": "k2"})).json()
    assert not set(other["jobs"]) & set(first["jobs"])


async def test_requests_with_one_key_at_once_are_one_job(http: httpx.AsyncClient, artist: Artist) -> None:
    key = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(http.post(GENERATIONS, json=BODY, headers=key) for _ in range(8)))
    assert len({answer.json()["jobs"][0] for answer in answers}) == 1
    assert len(await statuses(http)) == 1


async def test_a_key_is_for_one_request_alone(http: httpx.AsyncClient, artist: Artist) -> None:
    key = {"Idempotency-Key": "k"}
    await http.post(GENERATIONS, json=BODY, headers=key)
    answer = await http.post(GENERATIONS, json={**BODY, "prompt": "a blue seven"}, headers=key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_conflict")


async def test_an_upload_with_a_key_finds_its_first_job_and_leaves_one_file(
    router: Router, http: httpx.AsyncClient, artist: Artist
) -> None:
    form = {"data": {"prompt": "blue"}, "files": {"image": ("in.png", picture(), "image/png")}}
    key = {"Idempotency-Key": "k"}
    first = (await http.post("/v1/images/edits", **form, headers=key)).json()
    second = (await http.post("/v1/images/edits", **form, headers=key)).json()
    assert first["jobs"] == second["jobs"]
    inputs = router.settings.data_dir / "artifacts" / "inputs"
    await until(lambda: len(list(inputs.iterdir())) == 1)
    assert artist.executed[0].parameters.inputs[0].key == f"inputs/{next(inputs.iterdir()).name}"


async def test_a_key_that_no_header_should_have_is_refused(http: httpx.AsyncClient, artist: Artist) -> None:
    for key in ("", "x" * 256, "caf\u00e9".encode().decode("latin-1")):
        answer = await http.post(GENERATIONS, json=BODY, headers={"Idempotency-Key": key.encode("latin-1")})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_openais_client_repeats_with_the_key_that_it_was_given(router: Router, artist: Artist) -> None:
    artist.allowed.clear()
    async with AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=2) as client:
        # The first attempt runs into the client's own time-out; the second finds the job where it is.
        asking = asyncio.create_task(
            client.images.generate(prompt="a red seven", timeout=1.0, extra_headers={"Idempotency-Key": "k"})
        )
        await until(artist.denoising.is_set)
        await asyncio.wait({asking}, timeout=1.2)
        artist.allowed.set()
        answer = await asyncio.wait_for(asking, DEADLINE)
    assert answer.data is not None and len(answer.data) == 1
    assert len({task.job_id for task in artist.executed}) == 1
    assert artist.cancelled == []


async def test_a_job_that_failed_is_not_asked_for_again_by_openais_client(router: Router, artist: Artist) -> None:
    from diffusionpipeline.v1 import stage_pb2

    artist.failure = (stage_pb2.FAILURE_KIND_MODEL_ERROR, "out of paint")
    async with AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            await client.images.generate(prompt="a red seven")
    assert len({task.job_id for task in artist.executed}) == 1


async def test_a_router_that_stops_cancels_no_job_of_a_waiting_client(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    artist = Artist(router.target)
    await artist.attach()
    artist.work()
    artist.allowed.clear()
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as client:
        asking = asyncio.create_task(client.post(GENERATIONS, json=BODY))
        await asyncio.wait_for(artist.denoising.wait(), DEADLINE)
        await router.shut_down()
        await asyncio.wait({asking}, timeout=DEADLINE)
        assert asking.done()
        asking.exception()  # what the client sees of it is its own affair
    await artist.cut()
    again = await start_router(lease_seconds=300.0)
    async with httpx.AsyncClient(base_url=again.url, timeout=20) as client:
        assert await statuses(client) == ["queued"]
