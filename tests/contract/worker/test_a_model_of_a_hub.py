"""A worker whose model is on a hub: how far its download is can be seen from outside, and why it fails as well."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from diffusionpipeline.v1 import stage_pb2
from testbed.model_hub import ModelHub, playing
from testbed.processes import killed_at_the_end
from testbed.published import publish
from testbed.waiting import eventually
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import SD3

from .scripted_router import ScriptedRouter

DEADLINE = 240.0
LAST = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"

Process = asyncio.subprocess.Process
Spawn = Callable[..., Awaitable[Process]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with playing() as hub:
        hub.add("maker/sd3", publish(ensure(SD3), tmp_path / "published"), token="hf_secret")
        yield hub


@pytest.fixture
async def spawn(router: ScriptedRouter, hub: ModelHub, tmp_path: Path) -> AsyncIterator[Spawn]:
    """Starts a denoiser of the hub's model, with these variables besides."""

    async def spawn(**variables: str) -> Process:
        alone = ("DIFFUSION_WORKER_", "HF_", "HUGGING")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(alone)}
        environment |= {
            "DIFFUSION_WORKER_ROLES": "denoiser",
            "DIFFUSION_WORKER_MODEL_SOURCE": "Hub",
            "DIFFUSION_WORKER_MODEL_ID": "maker/sd3",
            "DIFFUSION_WORKER_ROUTER": f"127.0.0.1:{router.port}",
            "DIFFUSION_WORKER_BACKEND": "tcp",
            "DIFFUSION_WORKER_POOL_SIZE": str(1 << 24),
            "DIFFUSION_WORKER_LOG_FORMAT": "json",
            "OMP_NUM_THREADS": "1",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # A file that is held here is no connection that broke.
            "HF_HUB_DOWNLOAD_TIMEOUT": "600",
            **variables,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "diffusion_worker"),
            env=environment,
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    async with killed_at_the_end() as processes:
        yield spawn


async def first_event(process: Process) -> dict[str, object]:
    assert process.stderr is not None
    found: dict[str, object] = json.loads(await asyncio.wait_for(process.stderr.readline(), DEADLINE))
    return found


async def test_how_far_a_download_is_can_be_asked_scraped_and_read_and_is_told_the_router(
    router: ScriptedRouter, hub: ModelHub, spawn: Spawn
) -> None:
    with hub.hold(LAST):
        process = await spawn(HF_TOKEN="hf_secret")
        port = (await first_event(process))["http_port"]
        await eventually(hub.reached.is_set, DEADLINE, "the download is in the middle of its last file")

        async def told() -> bool:
            async with httpx.AsyncClient() as client:
                ready = await client.get(f"http://127.0.0.1:{port}/readyz")
                scraped = await client.get(f"http://127.0.0.1:{port}/metrics")
            values = {
                sample.name: sample.value
                for family in text_string_to_metric_families(scraped.text)
                for sample in family.samples
            }
            done, size = (values[f"diffusion_worker_download{suffix}_bytes"] for suffix in ("", "_size"))
            return 0 < done < size and ready.text.startswith(
                f"loading the model: {int(100 * done / size)} %, {done / (1 << 20):.1f} of {size / (1 << 20):.1f} MiB"
            )

        await eventually(told, DEADLINE, "what is ready and what is scraped agree on how far it is")
        await eventually(lambda: router.loading, DEADLINE, "the router is told")
        said = router.loading[-1]
        assert (list(said.roles), 0 < said.bytes < said.size) == ([stage_pb2.ROLE_DENOISER], True)
    stream = await router.attached()
    assert said.pod_name == stream.register.pod_name
    assert stream.register.model.digest
    process.kill()
    _, log = await process.communicate()
    events = [json.loads(line) for line in log.decode().splitlines()]
    progress = [event["progress"] for event in events if event["event"] == "downloading"]
    assert progress[-1].startswith("100 %")
    assert len(progress) <= 11
    assert "hf_secret" not in log.decode()
    assert {name for name in hub.files_sent() if name.endswith(".safetensors")} == {
        LAST,
        LAST.replace("00002-of", "00001-of"),
    }


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param({"HF_TOKEN": "hf_stale"}, "model.tokenSecretRef: the hub does not accept the token", id="401"),
        pytest.param({"DIFFUSION_WORKER_MODEL_ID": "no/thing"}, "model.id: the hub shows nobody", id="no repository"),
        pytest.param({"HF_HUB_OFFLINE": "1"}, "model.cache: ", id="offline", marks=pytest.mark.thorough),
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:9", "DIFFUSION_WORKER_DOWNLOAD_PATIENCE_SECONDS": "0"},
            "model.id: there is no way to the hub",
            id="no way",
            marks=pytest.mark.thorough,
        ),
    ],
)
async def test_what_fails_a_download_is_said_in_one_line_with_a_status_of_its_own(
    spawn: Spawn, variables: dict[str, str], words: str
) -> None:
    process = await spawn(**variables)
    _, said = await asyncio.wait_for(process.communicate(), DEADLINE)

    last = json.loads(said.decode().splitlines()[-1])
    assert last["event"] == "worker_failed"
    assert last["error"].startswith(words)
    assert process.returncode == 7
    assert "Traceback" not in said.decode() and "hf_stale" not in said.decode()
