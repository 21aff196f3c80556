"""I17 with real processes: each prompt is encoded once, whoever asks for it and when, and no picture changes for it."""

from __future__ import annotations

import base64
import random
import time
from asyncio import TaskGroup
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, STARTUP_SECONDS, Answer, at_rest, draw, metric, peers, running
from testbed.waiting import eventually, until

STEPS = 4
# No other test of this pipeline asks for them.
PROMPTS = [f"{count} {colour} sevens" for count in ("two", "three") for colour in ("red", "blue", "green", "white")]
REQUESTS = 40
CLIENTS = 6


def zipf() -> list[tuple[str, int]]:
    """Prompts as often as words are said, each with a seed of its own."""
    weights = [1 / rank for rank in range(1, len(PROMPTS) + 1)]
    prompts = random.Random(15).choices(PROMPTS, weights, k=REQUESTS)
    return [(prompt, seed) for seed, prompt in enumerate(prompts)]


class Counts:
    """Since it was made. What an encoder encoded, as itself counts it; what jobs found, as the router does."""

    def __init__(self, local: LocalPipeline) -> None:
        self._local = local
        (self._encoder,) = (pod for pod in local.workers if pod.role == "encoder")
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        encoded = metric(self._encoder.health_url, "diffusion_worker_tasks_total", role="encoder", outcome="done")
        return {"encoded": encoded, **lookups(self._local)}

    def since(self) -> dict[str, float]:
        return {name: value - self._before[name] for name, value in self._now().items()}


def lookups(local: LocalPipeline) -> dict[str, float]:
    """What jobs found, as the router counts it."""
    name = "diffusion_router_conditioning_lookups_total"
    return {result: metric(local.http_url, name, result=result) for result in ("hit", "wait", "miss")}


async def ask_all(local: LocalPipeline, requests: list[tuple[str, int]]) -> dict[int, Answer]:
    """By a few clients, each of which asks for one picture after the other. Answers by seed."""
    answers: dict[int, Answer] = {}
    waiting = iter(requests)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=local.http_url) as session:
            for prompt, seed in waiting:
                answers[seed] = await draw(session, prompt, seed, num_inference_steps=STEPS)

    async with TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return answers


async def shared(client: httpx.AsyncClient, jobs: list[str]) -> list[bool]:
    """Whether another's encoding served it, by the stage table of each job."""
    tables = [(await client.get(f"/v1/jobs/{job}")).raise_for_status().json()["stages"] for job in jobs]
    return [stage["shared"] for table in tables for stage in table if stage["stage"] == "encode"]


async def test_each_prompt_is_encoded_once_and_pictures_are_what_they_were_without(split: LocalPipeline) -> None:
    requests, counts = zipf(), Counts(split)
    distinct = len({prompt for prompt, _ in requests})
    assert 4 < distinct < REQUESTS / 4
    answers = await ask_all(split, requests)
    found = counts.since()
    assert found["encoded"] == found["miss"] == distinct
    assert found["hit"] + found["wait"] == REQUESTS - distinct
    async with httpx.AsyncClient(base_url=split.http_url, timeout=60) as client:
        # Those that were encoded themselves, again: now by what was kept, they are the same to the byte.
        own = [seed for seed, answer in answers.items() if await shared(client, list(answer.jobs)) == [False]]
        assert len(own) == distinct
        for prompt, seed in requests:
            if seed in own:
                again = await draw(client, prompt, seed, num_inference_steps=STEPS)
                assert await shared(client, list(again.jobs)) == [True]
                assert again.picture == answers[seed].picture
        body = {"prompt": requests[0][0], "seed": requests[0][1], "n": 8, "num_inference_steps": STEPS}
        reply = (await client.post("/v1/images/generations", json=body)).raise_for_status().json()
        assert await shared(client, reply["jobs"]) == [True] * 8
        assert base64.b64decode(reply["data"][0]["b64_json"]) == answers[requests[0][1]].picture
    assert counts.since()["encoded"] == distinct
    until(lambda: at_rest(split), 15, "nothing is left but what is kept")
    assert sum(peer.cached_outputs for peer in peers(split).values()) >= distinct


@pytest.mark.parametrize(
    "transport",
    [
        {"backend": "tcp"},
        pytest.param({"backend": "shm"}, marks=pytest.mark.thorough),
        pytest.param({"backend": "mooncake", "protocol": "tcp"}, marks=pytest.mark.thorough),
    ],
    ids=lambda transport: transport["backend"],
)
async def test_prompts_that_were_encoded_are_served_while_there_is_no_encoder(
    transport: dict[str, str], tmp_path: Path, report: Callable[[str], None]
) -> None:
    with running(resource("digits", roles__denoiser__replicas=2, transport=transport), tmp_path) as local:
        (encoder,) = (pod for pod in local.workers if pod.role == "encoder")
        requests = [(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
        expected = await ask_all(local, requests)
        until(lambda: at_rest(local), 15, "nothing is left but what is kept")
        told_at = time.monotonic()
        encoder.begin_stop()
        assert encoder.wait_stopped(told_at + 60)
        left = time.monotonic() - told_at
        until(lambda: encoder.name not in peers(local), 15, "the router knows that there is no encoder")
        assert kept(local) == len(PROMPTS)

        counts = lookups(local)
        for _ in range(2):
            for seed, answer in (await ask_all(local, requests)).items():
                assert answer.picture == expected[seed].picture
        assert {name: count - counts[name] for name, count in lookups(local).items()} == {
            "hit": 2 * len(PROMPTS),
            "wait": 0,
            "miss": 0,
        }
        assert kept(local) == len(PROMPTS)

        body = {"prompt": "a prompt that nobody has encoded", "num_inference_steps": STEPS}
        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            waiting = (await client.post("/v1/jobs", json=body)).raise_for_status().json()["data"][0]["id"]
            again = await draw(client, *requests[0], num_inference_steps=STEPS)
            assert again.picture == expected[requests[0][1]].picture

            async def status() -> str:
                found: str = (await client.get(f"/v1/jobs/{waiting}")).raise_for_status().json()["status"]
                return found

            assert await status() == "queued"
            encoder.start()
            until(encoder.ready, STARTUP_SECONDS, "there is an encoder again")

            async def made() -> bool:
                return await status() == "completed"

            await eventually(made, JOB_SECONDS, "what waited for an encoder is made")
        assert (await ask_all(local, requests[:1]))[0].picture == expected[0].picture
        encoded = metric(encoder.health_url, "diffusion_worker_tasks_total", role="encoder", outcome="done")
        assert encoded == 1, "only what nobody had encoded"
    report(f"the encoder left {left:.2f} s after SIGTERM, and {len(PROMPTS)} encodings stayed")


def kept(local: LocalPipeline) -> int:
    return sum(peer.cached_outputs for peer in peers(local).values())
