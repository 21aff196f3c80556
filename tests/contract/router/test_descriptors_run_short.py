"""A router that may open few files, and strangers who open more connections than that."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diffusionpipeline.process.descriptors import share
from diffusionpipeline.process.serving import Ports

DEADLINE = 60.0
LIMIT = 500


async def spawn(folder: Path, limit: int) -> asyncio.subprocess.Process:
    flags = ("--http-port=0", "--grpc-port=0", f"--data-dir={folder}", "--log-format=json")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "diffusion_router", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[Ports]:
    process = await spawn(tmp_path, LIMIT)
    assert process.stdout is not None
    said = b""
    async for line in process.stdout:
        said += line
        with suppress(ValueError):
            event = json.loads(line)
            if event["event"] == "router_ready":
                break
    else:
        pytest.fail(said.decode())
    reading = asyncio.create_task(process.stdout.read())
    yield Ports(event["http_port"], event["grpc_port"])
    assert process.returncode is None
    process.terminate()
    await reading
    assert await process.wait() == 0


@pytest.fixture
def strangers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def flood(strangers: ExitStack, port: int) -> None:
    for _ in range(2 * LIMIT):
        strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))


async def all_is_served(ports: Ports) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports.http}", timeout=DEADLINE) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/metrics")).status_code == 200
        job = {"prompt": "a red seven", "output_format": "png"}
        assert (await http.post("/v1/jobs", json=job)).status_code == 202
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        served = await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE, wait_for_ready=True)
    assert served.status == health_pb2.HealthCheckResponse.SERVING


async def test_http_connections_leave_descriptors_for_all_else(ports: Ports, strangers: ExitStack) -> None:
    flood(strangers, ports.http)
    await all_is_served(ports)


async def test_grpc_connections_leave_descriptors_and_end_if_they_say_nothing(
    ports: Ports, strangers: ExitStack
) -> None:
    flood(strangers, ports.grpc)
    await all_is_served(ports)


async def test_a_limit_that_is_too_low_is_refused_in_words(tmp_path: Path) -> None:
    process = await spawn(tmp_path, 300)
    said, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 1
    assert b"raise its limit (ulimit -n) to 416" in said


def test_http_and_grpc_have_their_parts() -> None:
    assert share(416).http == 16
    for limit in (416, 1024, 65536):
        room = share(limit)
        assert room.http + room.grpc <= limit - 256
    with pytest.raises(OSError, match="415 files"):
        share(415)
