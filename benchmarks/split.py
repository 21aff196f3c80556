"""The bundled model cut by role against the monolith, both run from one resource on this machine.

The monolith (all roles colocated) is given its best configuration for the cores there are: one replica a core. Each
configuration answers the same requests by HTTP; pictures are compared byte for byte. No lever is claimed: on equal
hardware splitting only costs, and this table says how much.

    python benchmarks/split.py [--jobs N] [--steps N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from diffusion_operator.api import load_pipeline
from dpipe.local import LocalPipeline

STARTUP_SECONDS = 180.0
EXAMPLES = Path(__file__).parents[1] / "examples"
# name, example, denoiser replicas
CONFIGURATIONS = (
    ("monolith x1", "digits-colocated", 1),
    ("monolith x2", "digits-colocated", 2),
    ("split 1:1:1", "digits", 1),
    ("split 1:2:1", "digits", 2),
)


def resource(example: str, denoisers: int) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    document["spec"]["roles"]["denoiser"]["replicas"] = denoisers
    return document


async def draw(session: aiohttp.ClientSession, url: str, seed: int, steps: int) -> tuple[float, str]:
    start = time.perf_counter()
    body = {"prompt": "a red seven", "seed": seed, "num_inference_steps": steps}
    async with session.post(f"{url}/v1/images/generations", json=body) as answer:
        reply = await answer.json()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {reply}")
    return time.perf_counter() - start, reply["data"][0]["b64_json"]


async def measure(url: str, jobs: int, steps: int) -> tuple[list[float], float, dict[int, str]]:
    """Idle latencies in seconds, jobs a second with 8 in flight over the whole time, pictures by seed."""
    async with aiohttp.ClientSession() as session:
        for seed in range(5):
            await draw(session, url, seed, steps)
        idle = [(await draw(session, url, seed, steps))[0] for seed in range(jobs // 4)]
        seeds = iter(range(jobs))
        pictures: dict[int, str] = {}

        async def client() -> None:
            for seed in seeds:
                pictures[seed] = (await draw(session, url, seed, steps))[1]

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(8)))
        return idle, jobs / (time.perf_counter() - start), pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    rows: list[tuple[str, list[float], float, float]] = []
    expected: dict[int, str] | None = None
    for name, example, denoisers in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as folder:
            with LocalPipeline(load_pipeline(resource(example, denoisers)), data_dir=Path(folder)) as local:
                local.wait_ready(STARTUP_SECONDS)
                idle, rate, pictures = asyncio.run(measure(local.http_url, options.jobs, options.steps))
                memory = sum(psutil.Process(pod.pid).memory_info().rss for pod in local.workers if pod.pid)
        if expected is not None and pictures != expected:
            raise SystemExit(f"{name} draws other pictures than {CONFIGURATIONS[0][0]}")
        expected = pictures
        rows.append((name, idle, rate, memory))
    best = max(rate for name, _, rate, _ in rows if name.startswith("monolith"))
    fastest = min(statistics.median(idle) for name, idle, _, _ in rows if name.startswith("monolith"))
    title = f"bundled model, {options.steps} steps, {psutil.cpu_count()} cores, pictures identical in all rows"
    table = Table(title=title)
    for column in (
        "configuration",
        "idle p50 ms",
        "of best monolith",
        "8 in flight, jobs/s",
        "of best monolith",
        "MiB",
    ):
        table.add_column(column, justify="right")
    for name, idle, rate, memory in rows:
        p50 = statistics.median(idle)
        cells = (f"{p50 * 1e3:.0f}", f"{p50 / fastest:.2f}x", f"{rate:.1f}", f"{rate / best:.2f}x")
        table.add_row(name, *cells, f"{memory / 2**20:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
