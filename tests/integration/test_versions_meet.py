"""A worker and a router of two versions, as in every upgrade: this version and the one before understand each other.

The older version is that of the last landed commit before the protocol had a version; it comes out of this repository.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from dpipe.up.ports import free_ports
from testbed.earlier import LANDED, python_path, sources_of
from testbed.processes import killed_at_the_end
from testbed.waiting import eventually

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the older version."""
    return sources_of(LANDED, tmp_path_factory.mktemp("older"))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a program from these sources."""

    async def start(sources: Path, program: str, *flags: str) -> asyncio.subprocess.Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIFFUSION_")}
        environment |= {"PYTHONPATH": python_path(sources), "OMP_NUM_THREADS": "1"}
        with (tmp_path / f"{program}.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", program, *flags, env=environment, cwd=tmp_path, stdout=log, stderr=log
            )
        processes.append(process)
        return process

    async with killed_at_the_end() as processes:
        yield start


@pytest.mark.parametrize("newer", ["diffusion_router", "diffusion_worker"])
async def test_a_picture_is_made_by_two_versions(older: Path, start: Start, tmp_path: Path, newer: str) -> None:
    sources = {program: ROOT if program == newer else older for program in ("diffusion_router", "diffusion_worker")}
    http_port, grpc_port, first, last = free_ports(4)
    await start(
        sources["diffusion_router"],
        "diffusion_router",
        *("--http-port", str(http_port), "--grpc-port", str(grpc_port), "--data-dir", str(tmp_path / "data")),
    )
    worker = await start(
        sources["diffusion_worker"],
        "diffusion_worker",
        *("--role", "encoder,denoiser,decoder", "--router", f"127.0.0.1:{grpc_port}", "--backend", "tcp"),
        *("--port-min", str(min(first, last)), "--port-max", str(max(first, last))),
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", timeout=60) as http:

        async def is_ready() -> bool:
            assert worker.returncode is None, (tmp_path / "diffusion_worker.log").read_text()
            with suppress(httpx.HTTPError):
                return (await http.get("/readyz")).status_code == 200
            return False

        await eventually(is_ready, DEADLINE, "the worker is registered")
        for seed in range(3):
            answer = await http.post("/v1/images/generations", json={"prompt": "a red seven", "seed": seed})
            assert answer.status_code == 200, answer.text
        metrics = (await http.get("/metrics")).text
    ours = newer == "diffusion_router"
    assert ('diffusion_router_ignored_reports_total{reason="unknown"} 0.0' in metrics) == ours, "which version it is"
