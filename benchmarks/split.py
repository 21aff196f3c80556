"""A model cut by role against the monolith, both run from one resource on this machine.

The monolith (all roles colocated) is given its best configuration: one replica, and two (on a CPU one a core, on a GPU
two that share it). Each configuration answers the same requests by HTTP; pictures are compared byte for byte, but for
rows whose encoder is on another device. No lever is claimed: on equal hardware splitting only costs, and this table
says how much. With --model, diffusers' own pipeline comes first, called in a loop with no server around it.

    python benchmarks/split.py [--jobs N] [--steps N] [--model FOLDER --dtype bfloat16 --device cuda --size 1024x1024]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from diffusion_operator.api import load_pipeline
from dpipe.up.local import LocalPipeline

STARTUP_SECONDS = 300.0
WARMING_UP = 3
EXAMPLES = Path(__file__).parents[1] / "examples"
# name, example, denoiser replicas, whether only the other roles are on the GPU
CONFIGURATIONS = (
    ("monolith x1", "digits-colocated", 1, False),
    ("monolith x2", "digits-colocated", 2, False),
    ("split 1:1:1", "digits", 1, False),
    ("split 1:2:1", "digits", 2, False),
    ("split 1:1:1, encoder on CPU", "digits", 1, True),
)


@dataclass(frozen=True)
class Request:
    steps: int
    size: str | None

    def body(self, seed: int) -> dict[str, Any]:
        size = {"size": self.size} if self.size else {}
        return {"prompt": "a red seven", "seed": seed, "num_inference_steps": self.steps, **size}


def resource(example: str, denoisers: int, options: argparse.Namespace, *, encoder_on_cpu: bool) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    spec = document["spec"]
    spec["roles"]["denoiser"]["replicas"] = denoisers
    # All requests have one prompt, and each is to cost what it costs where prompts differ.
    spec["roles"]["encoder"]["cacheShare"] = 0
    if options.model:
        spec["model"] = {"source": "Path", "id": str(options.model.absolute()), "dtype": options.dtype}
    for name, role in spec["roles"].items():
        if "colocateWith" in role:
            continue
        if options.device == "cuda":
            role.pop("threads", None)  # of a CPU; two processes with a thread for each core would starve one another
        role["device"] = "cpu" if name == "encoder" and encoder_on_cpu else options.device
    return document


async def draw(session: aiohttp.ClientSession, url: str, request: Request, seed: int) -> tuple[float, str]:
    start = time.perf_counter()
    async with session.post(f"{url}/v1/images/generations", json=request.body(seed)) as answer:
        reply = await answer.json()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {reply}")
    return time.perf_counter() - start, reply["data"][0]["b64_json"]


async def measure(url: str, jobs: int, request: Request) -> tuple[list[float], float, dict[int, str]]:
    """Idle latencies in seconds, jobs a second with 8 in flight over the whole time, pictures by seed."""
    async with aiohttp.ClientSession() as session:
        for seed in range(WARMING_UP):
            await draw(session, url, request, seed)
        idle = [(await draw(session, url, request, seed))[0] for seed in range(max(2, jobs // 4))]
        seeds = iter(range(jobs))
        pictures: dict[int, str] = {}

        async def client() -> None:
            for seed in seeds:
                pictures[seed] = (await draw(session, url, request, seed))[1]

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(8)))
        return idle, jobs / (time.perf_counter() - start), pictures


def plain(options: argparse.Namespace) -> list[float]:
    """Seconds that diffusers' own pipeline takes for a picture, its encoding to PNG included."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    size = dict(zip(("width", "height"), map(int, options.size.split("x")), strict=True)) if options.size else {}
    seconds = []
    for seed in range(WARMING_UP + max(2, options.jobs // 4)):
        start = time.perf_counter()
        generator = torch.Generator("cpu").manual_seed(seed)
        made = pipeline("a red seven", num_inference_steps=options.steps, generator=generator, **size)
        made.images[0].save(io.BytesIO(), "PNG", compress_level=4)
        seconds.append(time.perf_counter() - start)
    del pipeline, made
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return seconds[WARMING_UP:]


def stage_seconds(local: LocalPipeline) -> str:
    """The mean of each stage's computing, over all that the workers did."""
    sums: dict[tuple[str, str], float] = {}
    for pod in local.workers:
        for family in text_string_to_metric_families(httpx.get(f"{pod.health_url}/metrics").text):
            if family.name == "diffusion_worker_stage_duration_seconds":
                for sample in family.samples:
                    key = (sample.labels["role"], sample.name.rpartition("_")[2])
                    sums[key] = sums.get(key, 0.0) + sample.value
    roles = ("encoder", "denoiser", "decoder")
    return " / ".join(f"{sums[role, 'sum'] / sums[role, 'count']:.2f}" for role in roles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--model", type=Path, help="a diffusers folder; the bundled model without")
    parser.add_argument("--dtype", default="bfloat16", help="of --model")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", help="WIDTHxHEIGHT; the model's own without")
    options = parser.parse_args()
    request = Request(options.steps, options.size)
    console = Console(width=140)
    rows: list[tuple[str, list[float], float, float, str]] = []
    if options.model:
        alone = statistics.median(plain(options))
        console.print(f"diffusers' own pipeline, no server: {alone * 1e3:.0f} ms")
    expected: dict[int, str] | None = None
    for name, example, denoisers, encoder_on_cpu in CONFIGURATIONS:
        if encoder_on_cpu and options.device == "cpu":
            continue
        document = resource(example, denoisers, options, encoder_on_cpu=encoder_on_cpu)
        with tempfile.TemporaryDirectory() as folder:
            with LocalPipeline(load_pipeline(document), data_dir=Path(folder)) as local:
                local.wait_ready(STARTUP_SECONDS)
                idle, rate, pictures = asyncio.run(measure(local.http_url, options.jobs, request))
                stages = stage_seconds(local)
                memory = sum(psutil.Process(pod.pid).memory_info().rss for pod in local.workers if pod.pid)
        if expected is not None and not encoder_on_cpu and pictures != expected:
            raise SystemExit(f"{name} draws other pictures than {CONFIGURATIONS[0][0]}")
        expected = expected or pictures
        console.print(f"{name}: {statistics.median(idle) * 1e3:.0f} ms idle, {rate:.2f} jobs/s, {stages}", style="dim")
        rows.append((name, idle, rate, memory, stages))
    best = max(rate for name, _, rate, *_ in rows if name.startswith("monolith"))
    fastest = min(statistics.median(idle) for name, idle, *_ in rows if name.startswith("monolith"))
    model = options.model.name if options.model else "bundled model"
    title = (
        f"{model}, {options.steps} steps, {options.device}, {psutil.cpu_count()} cores; equal devices, equal pictures"
    )
    table = Table(title=title)
    for column in (
        "configuration",
        "idle p50 ms",
        "of best monolith",
        "8 in flight, jobs/s",
        "of best monolith",
        "MiB",
        "encode / denoise / decode s",
    ):
        table.add_column(column, justify="right")
    for name, idle, rate, memory, stages in rows:
        p50 = statistics.median(idle)
        cells = (f"{p50 * 1e3:.0f}", f"{p50 / fastest:.2f}x", f"{rate:.2f}", f"{rate / best:.2f}x")
        table.add_row(name, *cells, f"{memory / 2**20:.0f}", stages)
    console.print(table)


if __name__ == "__main__":
    main()
