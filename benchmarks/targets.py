"""Short requests beside long ones on one denoiser of real processes, by policy: what the short ones wait, and what that
costs the long ones.

    python benchmarks/targets.py [--rounds N] [--longs N] [--load L]

The bundled model: short requests of 12 steps come by chance, long ones of 300 at fixed gaps; how long both take alone
is measured first, and each kind is half of the load. Requests say nothing of targets: each has its default. Both
policies' pipelines stay up and take turns, and the requests of a round are the same for both. A request's picture must
be the same whenever it is made.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from diffusion_operator.api import load_pipeline
from dpipe.up.local import LocalPipeline

POLICIES = ("Fifo", "Deadline")
SHORT, LONG = 12, 300
STARTUP_SECONDS = 300.0
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
ALONE = 2


@dataclass(frozen=True)
class Request:
    at: float
    """Seconds after the round began."""
    steps: int
    seed: int


@dataclass
class Round:
    short: list[float] = field(default_factory=list)
    """Seconds that each took."""
    long: list[float] = field(default_factory=list)
    parks: float = 0.0


def resource(policy: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["scheduling"] = {"policy": policy}
    document["spec"]["roles"].setdefault("router", {})["args"] = [f"--max-steps={LONG}"]
    return document


@dataclass
class Client:
    url: str
    session: aiohttp.ClientSession
    expected: dict[tuple[int, int], str]
    """By steps and seed, the picture."""

    async def draw(self, steps: int, seed: int) -> float:
        """Seconds from the request to its picture."""
        begun = time.perf_counter()
        body = {"prompt": "a red seven", "seed": seed, "num_inference_steps": steps}
        async with self.session.post(f"{self.url}/v1/images/generations", json=body) as answer:
            reply = await answer.json()
            if answer.status != 200:
                raise SystemExit(f"{answer.status}: {reply}")
        (one,) = reply["data"]
        if self.expected.setdefault((steps, seed), one["b64_json"]) != one["b64_json"]:
            raise SystemExit(f"{self.url}: {steps} steps with seed {seed} draw another picture than before")
        return time.perf_counter() - begun

    async def parks(self) -> float:
        async with self.session.get(f"{self.url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "diffusion_router_parks_total"
        )

    async def alone(self, steps: int) -> float:
        return statistics.median([await self.draw(steps, seed) for seed in range(ALONE)])

    async def round(self, requests: Sequence[Request]) -> Round:
        found, before, begun = Round(), await self.parks(), time.perf_counter()

        async def ask(request: Request) -> None:
            await asyncio.sleep(request.at - (time.perf_counter() - begun))
            seconds = await self.draw(request.steps, request.seed)
            (found.long if request.steps == LONG else found.short).append(seconds)

        await asyncio.gather(*map(ask, requests))
        found.parks = await self.parks() - before
        return found


def drawn(chance: random.Random, longs: int, load: float, short: float, long: float) -> list[Request]:
    """short, long: seconds that each takes alone. As many of both on a slow machine, but further apart."""
    gap, between = 2 * long / load, 2 * short / load
    requests = [Request(number * gap, LONG, chance.randrange(100)) for number in range(longs)]
    at = 0.0
    for _ in range(round(longs * long / short)):
        at += chance.expovariate(1 / between)
        requests.append(Request(at, SHORT, chance.randrange(100)))
    return requests


async def measure(urls: dict[str, str], options: argparse.Namespace) -> tuple[float, float, dict[str, list[Round]]]:
    async with clients(urls) as by_policy:
        # As slow as this machine is now; and so each router learns what to expect.
        alone = [(await one.alone(SHORT), await one.alone(LONG)) for one in by_policy.values()]
        short, long = (max(each) for each in zip(*alone, strict=True))
        chance = random.Random(options.seed)
        rounds: dict[str, list[Round]] = {policy: [] for policy in POLICIES}
        for number in range(options.rounds):
            requests = drawn(chance, options.longs, options.load, short, long)
            for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
                rounds[policy].append(await by_policy[policy].round(requests))
        return short, long, rounds


@asynccontextmanager
async def clients(urls: dict[str, str]) -> AsyncIterator[dict[str, Client]]:
    expected: dict[tuple[int, int], str] = {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(300)) as session:
        yield {policy: Client(url, session, expected) for policy, url in urls.items()}


def p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def extent(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def show(short: float, long: float, rounds: dict[str, list[Round]]) -> None:
    console = Console(width=150)
    title = f"seconds: median over rounds (range); alone, a short one takes {short:.2f} and a long one {long:.2f}"
    table = Table("policy", "short: p50", "p95", "maximum", "long: p50", "maximum", "parks", "of", title=title)
    for policy, made in rounds.items():
        table.add_row(
            policy,
            extent([statistics.median(one.short) for one in made]),
            extent([p95(one.short) for one in made]),
            extent([max(one.short) for one in made]),
            extent([statistics.median(one.long) for one in made]),
            extent([max(one.long) for one in made]),
            f"{sum(one.parks for one in made):.0f}",
            f"{sum(len(one.short) for one in made)} short, {sum(len(one.long) for one in made)} long",
        )
    console.print(table)
    pairs = list(zip(rounds["Deadline"], rounds["Fifo"], strict=True))
    for name, ratios in (
        ("the short ones' p95", [p95(one.short) / p95(other.short) for one, other in pairs]),
        ("the long ones' p50", [statistics.median(one.long) / statistics.median(other.long) for one, other in pairs]),
    ):
        console.print(f"Deadline against Fifo, {name}: {extent(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--longs", type=int, default=3, help="long requests in a round")
    parser.add_argument("--load", type=float, default=0.6, help="of what the denoiser can do")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with ExitStack() as stack:
        local = {}
        for policy in POLICIES:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            local[policy] = stack.enter_context(LocalPipeline(load_pipeline(resource(policy)), data_dir=folder))
            local[policy].wait_ready(STARTUP_SECONDS)
        show(*asyncio.run(measure({policy: one.http_url for policy, one in local.items()}, options)))


if __name__ == "__main__":
    main()
