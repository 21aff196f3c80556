"""A pipeline whose processes have an IPv6 address and no other: tensors by Mooncake, pictures by its router."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from PIL import Image

from diffusionpipeline.v1 import registry_pb2, registry_pb2_grpc
from dpipe.up.ports import free_ports
from testbed.processes import killed_at_the_end
from testbed.waiting import eventually

pytestmark = pytest.mark.thorough

DEADLINE = 120.0
ROLES = ("encoder", "denoiser", "decoder")
PORTS_EACH = 24
DPIPE = (sys.executable, "-c", "from dpipe.app import main; main()")


@dataclass(frozen=True)
class Router:
    http: str
    grpc: str

    def dpipe(self, *arguments: str) -> str:
        done = subprocess.run([*DPIPE, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    """With a worker for each role."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIFFUSION_")}
    async with killed_at_the_end() as processes:

        async def start(program: str, *flags: str) -> None:
            with (tmp_path / f"{len(processes)}.log").open("w") as log:
                run = (sys.executable, "-m", program, "--host", "::1", *flags)
                processes.append(await asyncio.create_subprocess_exec(*run, env=environment, stdout=log, stderr=log))

        http_port, grpc_port = free_ports(2)
        ports = ("--http-port", str(http_port), "--grpc-port", str(grpc_port))
        await start("diffusion_router", *ports, "--data-dir", str(tmp_path / "data"))
        found = Router(f"http://[::1]:{http_port}", f"[::1]:{grpc_port}")
        first = 15_000 + os.getpid() % 100 * PORTS_EACH
        for number, role in enumerate(ROLES):
            low = first + number * PORTS_EACH
            await start(
                "diffusion_worker",
                *("--role", role, "--router", found.grpc, "--pod-name", role),
                *("--port-min", str(low), "--port-max", str(low + PORTS_EACH - 1)),
            )

        async with httpx.AsyncClient(base_url=found.http, trust_env=False) as client:

            async def is_ready() -> bool:
                for process, log in zip(processes, sorted(tmp_path.glob("*.log")), strict=True):
                    assert process.returncode is None, log.read_text()
                with suppress(httpx.HTTPError):
                    return (await client.get("/readyz")).status_code == 200
                return False

            await eventually(is_ready, DEADLINE, "all workers are registered")
        yield found


async def test_pictures_are_made_where_there_is_no_ipv4(router: Router, tmp_path: Path) -> None:
    picture = tmp_path / "seven.png"
    await asyncio.to_thread(router.dpipe, "generate", "a red seven", "-o", str(picture), "--url", router.http)
    assert Image.open(picture).size == (64, 64)
    async with grpc.aio.insecure_channel(router.grpc) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        listed = await stub.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)
    assert {peer.pod_name for peer in listed.peers} == set(ROLES)
    assert all(peer.pool.url.startswith("mooncake-tcp://[::1]:") for peer in listed.peers)
    assert "mooncake-tcp" in await asyncio.to_thread(router.dpipe, "peers", "--grpc", router.grpc)
    assert "completed" in await asyncio.to_thread(router.dpipe, "jobs", "--url", router.http)
