"""Four real processes, Mooncake over TCP, the real `openai` package; the monolith from the same resource."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from testbed.examples import resource
from testbed.pipelines import at_rest, draw, metric, peers, running
from testbed.waiting import until

SIZE = (64, 64)


@pytest.fixture(scope="module")
def monolith(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with running(resource("digits-colocated"), tmp_path_factory.mktemp("monolith")) as local:
        assert len(local.workers) == 1
        yield local


def client(local) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.http_url}/v1", api_key="none", timeout=60, max_retries=0)


def generate(local, prompt: str, seed: int) -> bytes:
    reply = client(local).images.generate(prompt=prompt, extra_body={"seed": seed})
    return base64.b64decode(reply.data[0].b64_json)


def edit(local, picture: bytes, prompt: str) -> bytes:
    reply = client(local).images.edit(
        image=("seven.png", picture, "image/png"), prompt=prompt, extra_body={"seed": 3, "strength": 0.7}
    )
    return base64.b64decode(reply.data[0].b64_json)


def test_i5_a_red_seven_is_byte_identical_to_the_monoliths(split, monolith) -> None:
    picture = generate(split, "a red seven", seed=7)
    assert picture == generate(monolith, "a red seven", seed=7)
    assert picture != generate(split, "a red seven", seed=8)
    assert Image.open(io.BytesIO(picture)).size == SIZE


def test_i5_an_edit_is_byte_identical_to_the_monoliths(split, monolith) -> None:
    source = generate(split, "a red seven", seed=7)
    edited = edit(split, source, "a blue seven")
    assert edited == edit(monolith, source, "a blue seven")
    assert edited != source


def test_tensors_go_from_pool_to_pool_by_mooncake(split) -> None:
    generate(split, "a red seven", seed=1)
    assert {peer.pool.mode for peer in peers(split).values()} == {"mooncake-tcp"}
    for role in ("denoiser", "decoder"):
        (pod,) = (pod for pod in split.workers if pod.role == role)
        assert metric(pod.health_url, "diffusion_worker_transfer_bytes_total") > 1000


def test_a_colocated_pipeline_transfers_nothing(monolith) -> None:
    generate(monolith, "a red seven", seed=1)
    (pod,) = monolith.workers
    assert metric(pod.health_url, "diffusion_worker_transfer_bytes_total") == 0


def test_all_processes_can_be_scraped(split) -> None:
    generate(split, "a red seven", seed=1)
    assert metric(split.http_url, "diffusion_router_requests_total", status="completed") >= 1
    assert metric(split.http_url, "diffusion_router_peers", state="ready") == 3
    for pod in split.workers:
        count = metric(pod.health_url, "diffusion_worker_stage_duration_seconds_count", role=pod.role)
        assert count >= 1, pod.name
        assert metric(pod.health_url, "diffusion_worker_pool_bytes") > 0


def test_models_are_listed_and_unknown_ones_refused(split) -> None:
    (model,) = client(split).models.list().data
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client(split).images.generate(prompt="a red seven", model=f"{model.id}-2")


def test_everything_is_given_back_after_the_last_picture(split) -> None:
    generate(split, "a red seven", seed=2)
    until(lambda: at_rest(split), 15, "slots, outputs and tasks are given back")


async def test_two_denoisers_share_eight_jobs_and_each_picture_equals_its_solo_twin(tmp_path: Path, split) -> None:
    requests = [
        (f"a {colour} {digit}", seed)
        for seed, (colour, digit) in enumerate(
            (colour, digit) for colour in ("red", "blue") for digit in ("one", "two", "three", "four")
        )
    ]
    async with httpx.AsyncClient(base_url=split.http_url) as client:
        solo = [await draw(client, prompt, seed, num_inference_steps=12) for prompt, seed in requests]
    with running(resource("digits", roles__denoiser__replicas=2), tmp_path) as local:
        async with httpx.AsyncClient(base_url=local.http_url) as client:
            together = await asyncio.gather(
                *(draw(client, prompt, seed, num_inference_steps=12) for prompt, seed in requests)
            )
        denoisers = [pod for pod in local.workers if pod.role == "denoiser"]
        shares = [metric(pod.health_url, "diffusion_worker_stage_duration_seconds_count") for pod in denoisers]
    assert [answer.picture for answer in together] == [answer.picture for answer in solo]
    assert sum(shares) == 8
    assert min(shares) >= 2, shares
