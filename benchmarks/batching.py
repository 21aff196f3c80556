"""A pipeline of real processes in each mode of batching: jobs a second with 1, 4 and 8 in flight, and four pictures of
one request beside four requests for one.

    python benchmarks/batching.py [--jobs N] [--steps N] [--rounds N]

One encoder, denoiser and decoder of the bundled model. Modes alternate, each in pipelines of its own; the best round is
shown with the worst. Pictures of Exact and Guidance must be those of a request alone, byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from rich.console import Console
from rich.table import Table

from diffusion_operator.api import load_pipeline
from dpipe.up.local import LocalPipeline

MODES = ("Exact", "Guidance", "Requests")
IN_FLIGHT = (1, 4, 8)
STARTUP_SECONDS = 300.0
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
PICTURES = 4

Rates = dict[tuple[str, str], list[float]]


def resource(mode: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["roles"]["denoiser"]["batching"] = {"mode": mode}
    return document


async def draw(session: aiohttp.ClientSession, url: str, **body: Any) -> list[str]:
    async with session.post(f"{url}/v1/images/generations", json={"prompt": "a red seven", **body}) as answer:
        reply = await answer.json()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {reply}")
        return [one["b64_json"] for one in reply["data"]]


async def jobs_a_second(url: str, jobs: int, in_flight: int, steps: int) -> tuple[float, dict[int, str]]:
    seeds, pictures = iter(range(jobs)), {}
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for seed in seeds:
                (pictures[seed],) = await draw(session, url, seed=seed, num_inference_steps=steps)

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(in_flight)))
        return jobs / (time.perf_counter() - begun), pictures


async def pictures_a_second(url: str, times: int, steps: int) -> tuple[float, float]:
    """Of requests for four pictures, and of four requests for one each."""
    async with aiohttp.ClientSession() as session:
        begun = time.perf_counter()
        for _ in range(times):
            await draw(session, url, seed=0, num_inference_steps=steps, n=PICTURES)
        between = time.perf_counter()
        for _ in range(times):
            requests = (draw(session, url, seed=seed, num_inference_steps=steps) for seed in range(PICTURES))
            await asyncio.gather(*requests)
        count = PICTURES * times
        return count / (between - begun), count / (time.perf_counter() - between)


def measure(mode: str, options: argparse.Namespace, rates: Rates, expected: dict[int, str]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalPipeline(load_pipeline(resource(mode)), data_dir=Path(folder)) as local,
    ):
        local.wait_ready(STARTUP_SECONDS)
        asyncio.run(jobs_a_second(local.http_url, 8, 4, options.steps))
        for in_flight in IN_FLIGHT:
            rate, pictures = asyncio.run(jobs_a_second(local.http_url, options.jobs, in_flight, options.steps))
            rates.setdefault((mode, str(in_flight)), []).append(rate)
            if mode != "Requests" and any(expected.setdefault(seed, made) != made for seed, made in pictures.items()):
                raise SystemExit(f"{mode} with {in_flight} in flight draws other pictures")
        one, four = asyncio.run(pictures_a_second(local.http_url, options.jobs // 8, options.steps))
        rates.setdefault((mode, f"n={PICTURES}"), []).append(one)
        rates.setdefault((mode, f"{PICTURES} requests"), []).append(four)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=48)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rates: Rates = {}
    expected: dict[int, str] = {}
    for _ in range(options.rounds):
        for mode in MODES:
            measure(mode, options, rates, expected)
    columns = [*map(str, IN_FLIGHT), f"n={PICTURES}", f"{PICTURES} requests"]
    table = Table("mode", *columns, title=f"pictures a second (worst round), {options.steps} steps")
    for mode in MODES:
        best = {column: max(rates[mode, column]) for column in columns}
        table.add_row(mode, *(f"{best[column]:.1f} ({min(rates[mode, column]):.1f})" for column in columns))
    Console(width=120).print(table)
    for column in columns:
        ratio = max(rates["Requests", column]) / max(rates["Exact", column])
        Console().print(f"Requests against Exact, {column}: {ratio:.2f}x")


if __name__ == "__main__":
    main()
