"""In a guest: a whole pipeline over RDMA, and what becomes of one that asks for RDMA where there is none (I10).

The tests stand in the order of the machine's life: first it has no RDMA device, then it gets one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from diffusion_operator.api import load_pipeline
from dpipe.up.local import LocalPipeline
from rdma.inside.device import SOFT_ROCE, packets_received
from testbed.examples import resource
from testbed.pipelines import Answer, draw, metric, peers, ready
from testbed.waiting import until

# Four processes load torch on two emulated processors.
STARTUP_SECONDS = 600.0
pytestmark = pytest.mark.timeout(2 * STARTUP_SECONDS)
EXIT_TRANSPORT = 5
PICTURES = (("a red seven", 7), ("a blue three", 3))
PACKET = 4096

Pictures = dict[str, bytes]


@contextmanager
def running(example: str, folder: Path, fallback: str) -> Iterator[LocalPipeline]:
    transport = {"protocol": "rdma", "fallback": fallback, "rdma": {"resourceName": "rdma/hca"}, "poolSize": "64Mi"}
    with LocalPipeline(load_pipeline(resource(example, transport=transport)), data_dir=folder) as local:
        local.wait_ready(STARTUP_SECONDS)
        until(lambda: ready(local), STARTUP_SECONDS, "the router sees a worker of each role")
        yield local


async def pictures(local: LocalPipeline) -> list[Answer]:
    async with httpx.AsyncClient(base_url=local.http_url, trust_env=False) as client:
        return [await draw(client, prompt, seed) for prompt, seed in PICTURES]


def modes(local: LocalPipeline) -> dict[str, set[str]]:
    """Of all workers, as each place tells it."""
    logs = [line for pod in local.workers for line in events(pod.log_path, "transport_open")]
    shown = ("mooncake-tcp", "mooncake-rdma")
    return {
        "registry": {peer.pool.mode for peer in peers(local).values()},
        "log": {line["mode"] for line in logs},
        "metrics": {
            mode
            for pod in local.workers
            for mode in shown
            if metric(pod.health_url, "diffusion_worker_transport_info", mode=mode) == 1
        },
    }


def everywhere(mode: str) -> dict[str, set[str]]:
    return {"registry": {mode}, "log": {mode}, "metrics": {mode}}


def events(log: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


@pytest.fixture(scope="module")
def whole() -> Pictures:
    """What the colocated pipeline drew."""
    return {}


def test_i10_a_worker_that_may_not_fall_back_ends_and_names_the_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_worker", "--role", "encoder", "--protocol", "rdma", "--fallback", "Deny"],
        capture_output=True,
        text=True,
        timeout=STARTUP_SECONDS,
    )
    output = done.stdout + done.stderr
    assert done.returncode == EXIT_TRANSPORT, output
    assert "this machine shows no RDMA device" in output
    assert "Request the cluster's RDMA resource for this role, or set fallback: Allow or protocol: tcp" in output


async def test_one_that_may_fall_back_runs_on_tcp_and_says_so(tmp_path: Path, whole: Pictures) -> None:
    with running("digits-colocated", tmp_path, "Allow") as local:
        for answer in await pictures(local):
            whole[answer.request] = answer.picture
        assert modes(local) == everywhere("mooncake-tcp")
        (fell_back,) = events(local.workers[0].log_path, "rdma_fell_back_to_tcp")
    assert fell_back["level"] == "warning"
    assert "no RDMA device" in fell_back["found"]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """From here on the machine has an RDMA device."""
    subprocess.run(["bash", str(SOFT_ROCE)], check=True, timeout=60)
    with running("digits", tmp_path_factory.mktemp("split"), "Deny") as local:
        yield local


async def test_pictures_over_rdma_are_those_of_the_colocated_pipeline(
    split: LocalPipeline, whole: Pictures, report: Callable[[str], None]
) -> None:
    before = packets_received()
    answers = await pictures(split)
    packets = packets_received() - before
    assert {answer.request: answer.picture for answer in answers} == whole
    assert modes(split) == everywhere("mooncake-rdma")
    moved = sum(metric(pod.health_url, "diffusion_worker_transfer_bytes_total") for pod in split.workers)
    failed = sum(metric(pod.health_url, "diffusion_worker_transfer_failures_total") for pod in split.workers)
    assert failed == 0
    assert moved > 0
    assert packets >= moved / PACKET, f"{moved:.0f} bytes of tensors, but {packets} packets of RDMA"
    report(f"{moved:.0f} bytes in {packets} packets, a picture in {min(a.seconds for a in answers):.1f} s")


async def test_i6_a_port_that_was_down_for_a_moment_costs_time_and_no_job(
    split: LocalPipeline, whole: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers lose their pools at once: they end, come back as others, and the job is done."""
    monkeypatch.setattr("testbed.pipelines.JOB_SECONDS", STARTUP_SECONDS)
    before = await asyncio.to_thread(incarnations, split)
    drawing = asyncio.create_task(pictures(split))
    await asyncio.to_thread(until, lambda: any(peer.tasks for peer in peers(split).values()), 60, "a job runs")
    flap()
    assert {answer.request: answer.picture for answer in await drawing} == whole
    assert [pod.exit_code for pod in split.workers] == [EXIT_TRANSPORT] * len(split.workers)
    assert before.isdisjoint(await asyncio.to_thread(incarnations, split))


def incarnations(local: LocalPipeline) -> set[str]:
    return {peer.incarnation for peer in peers(local).values()}


def flap() -> None:
    for state in ("down", "up"):
        subprocess.run(["ip", "link", "set", "rdma0", state], check=True, timeout=10)
