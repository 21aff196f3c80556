"""What the router costs: jobs whose stages compute nothing, with payloads of several sizes a hop.

Everything else is real: one router and three workers, each a process of its own; HTTP with JSON; the job store on disk;
tensors pulled from pool to pool; the result uploaded, stored and fetched again by the client. All on this machine, so
client, router and workers share its cores.

Beside each figure stands the same for SGLang 0.5.23's disaggregated diffusion (its head and role schedulers with a
no-op model on a machine of the same kind, two cores), measured without HTTP and without a store, hence doing less.

    python benchmarks/router.py [--backend mooncake|tcp|shm] [--jobs N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

SIZES = {"1 KiB": 1 << 10, "0.5 MiB": 512 << 10, "8 MiB": 8 << 20}
SGLANG = {"1 KiB": (12.5, 198.0, 157.0), "0.5 MiB": (11.9, 163.0, 157.0), "8 MiB": (62.8, 21.0, 26.0)}
GOALS = {"1 KiB": (8.0, 200.0), "0.5 MiB": (8.0, 200.0), "8 MiB": (30.0, 60.0)}
ROLES = ("encoder", "denoiser", "decoder")
STARTUP_SECONDS = 90.0


@dataclass
class Row:
    size: str
    p50_ms: float
    p99_ms: float
    eight: float
    sixty_four: float
    router_cpu_ms: float
    workers_cpu_ms: float


@contextlib.asynccontextmanager
async def pipeline(backend: str, hop: int, folder: Path) -> AsyncIterator[tuple[str, dict[str, psutil.Process]]]:
    """A router and three workers whose model only hands on `hop` bytes."""
    http, grpc = 18_700, 18_701
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    router = [sys.executable, "-m", "diffusion_router", "--http-port", str(http), "--grpc-port", str(grpc)]
    router += ["--data-dir", str(folder / "router"), "--max-upload-bytes", str(64 << 20)]
    commands = {"router": router}
    for index, role in enumerate(ROLES):
        first = 18_800 + 40 * index
        worker = [sys.executable, str(Path(__file__).parent / "zero_work" / "worker.py"), str(hop), "--role", role]
        worker += ["--router", f"127.0.0.1:{grpc}", "--backend", backend, "--protocol", "tcp"]
        worker += ["--pool-size", str(1 << 30 if hop > 1 << 20 else 128 << 20), "--pod-name", f"{role}-0"]
        worker += ["--port-min", str(first), "--port-max", str(first + 39), "--health-port", "0"]
        commands[role] = [*worker, "--grpc-health-port", "0"]
    processes: dict[str, psutil.Process] = {}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            log = (folder / f"{name}.log").open("wb")
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))  # noqa: ASYNC220
            processes[name] = psutil.Process(started[-1].pid)
        url = f"http://127.0.0.1:{http}"
        async with asyncio.timeout(STARTUP_SECONDS):
            await until_ready(url, started, folder)
        yield url, processes
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()


async def until_ready(url: str, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            if any(process.poll() is not None for process in processes):
                logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
                raise SystemExit(f"a process ended at its start:\n{logs}")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


async def one_job(session: aiohttp.ClientSession, url: str) -> float:
    start = time.perf_counter()
    body = {"prompt": "nothing", "seed": 1, "response_format": "url"}
    async with session.post(f"{url}/v1/images/generations", json=body) as answer:
        reply = await answer.json()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {reply}")
    async with session.get(reply["data"][0]["url"]) as answer:
        await answer.read()
    return time.perf_counter() - start


async def throughput(session: aiohttp.ClientSession, url: str, jobs: int, inflight: int) -> float:
    """Jobs a second over the whole time from the first request to the last answer."""
    left = iter(range(jobs))

    async def client() -> None:
        for _ in left:
            await one_job(session, url)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(inflight)))
    return jobs / (time.perf_counter() - start)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure(backend: str, size: str, jobs: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        async with pipeline(backend, SIZES[size], Path(folder)) as (url, processes):
            connector = aiohttp.TCPConnector(limit=128)
            async with aiohttp.ClientSession(connector=connector) as session:
                for _ in range(20):
                    await one_job(session, url)
                idle = [await one_job(session, url) for _ in range(jobs // 2)]
                before = {name: cpu_seconds(process) for name, process in processes.items()}
                eight = await throughput(session, url, jobs, 8)
                sixty_four = await throughput(session, url, jobs, 64)
                spent = {name: cpu_seconds(process) - before[name] for name, process in processes.items()}
    router = spent.pop("router")
    return Row(
        size,
        statistics.median(idle) * 1e3,
        statistics.quantiles(idle, n=100)[98] * 1e3,
        eight,
        sixty_four,
        router / (2 * jobs) * 1e3,
        sum(spent.values()) / (2 * jobs) * 1e3,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mooncake", choices=["mooncake", "tcp", "shm"])
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--size", choices=list(SIZES), action="append")
    options = parser.parse_args()
    table = Table(title=f"router with zero-work stages, backend {options.backend}: ours / SGLang's (ratio)")
    columns = ["payload a hop", "idle p50 ms", "p99 ms", "8 in flight, jobs/s", "64 in flight, jobs/s", "goal"]
    for column in [*columns, "CPU ms a job: router", "workers"]:
        table.add_column(column, justify="right")
    for size in options.size or SIZES:
        row = await measure(options.backend, size, options.jobs if SIZES[size] < 1 << 20 else options.jobs // 2)
        latency, eight, sixty_four = SGLANG[size]
        goal = GOALS[size]
        table.add_row(
            size,
            f"{row.p50_ms:.1f} / {latency} ({row.p50_ms / latency:.2f}x)",
            f"{row.p99_ms:.1f}",
            f"{row.eight:.0f} / {eight:.0f} ({row.eight / eight:.2f}x)",
            f"{row.sixty_four:.0f} / {sixty_four:.0f} ({row.sixty_four / sixty_four:.2f}x)",
            f"≤ {goal[0]:.0f} ms, ≥ {goal[1]:.0f}/s",
            f"{row.router_cpu_ms:.1f}",
            f"{row.workers_cpu_ms:.1f}",
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    asyncio.run(main())
