"""What `dpipe simulate` says of a pipeline beside what that does: real processes that batch, and the same arrivals.

    python benchmarks/simulated.py [--jobs N] [--steps N] [--rounds N]

One encoder, denoiser and decoder of the bundled model, in mode Requests, of up to four. From jobs that are alone come
the seconds of each stage, from the worker's own reports those of forwards that 1 to 4 requests share; both are taken
before and after each load, and how they changed stands beside it: a machine that changes is of no use for this. Of that
a scenario is made, as a user would write one, and `dpipe simulate` plays it with the arrivals that the real one had:
all at once, and at 0.7 of what was done then. Steps are many, so that it is the denoiser that bounds both, not how five
processes share two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from diffusion_operator.api import load_pipeline
from dpipe.client.registry import Registry
from dpipe.simulate.report import quantile
from dpipe.up.local import LocalPipeline

TOGETHER = 4
# Jobs with nothing beside them, before and after each load.
ALONE = 3
STARTUP_SECONDS = 300.0
WAIT_SECONDS = 120.0
LOAD = 0.7
EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.yaml"
# Of a job alone: Execute and StageDone of three stages.
MESSAGES = 6

Job = dict[str, Any]


def resource() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["roles"]["denoiser"]["batching"] = {"mode": "Requests", "maxRequests": TOGETHER}
    return document


@dataclass
class Router:
    url: str
    steps: int
    sent: int = 0

    async def play(self, arrivals: Sequence[float]) -> list[Job]:
        """The jobs that arrived so many seconds after the first, as they ended."""
        async with httpx.AsyncClient(base_url=self.url, timeout=WAIT_SECONDS) as client:
            begun = time.perf_counter()

            async def send(at: float, number: int) -> str:
                await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
                body = {"prompt": f"a red seven {number}", "seed": number, "num_inference_steps": self.steps}
                answer = await client.post("/v1/jobs", json=body)
                answer.raise_for_status()
                found: str = answer.json()["ids"][0]
                return found

            numbers = range(self.sent, self.sent + len(arrivals))
            self.sent += len(arrivals)
            ids = await asyncio.gather(*map(send, arrivals, numbers))
            return [await _ended(client, job_id) for job_id in ids]

    async def in_turn(self, number: int) -> list[Job]:
        """Each alone."""
        return [job for _ in range(number) for job in await self.play([0.0])]


async def _ended(client: httpx.AsyncClient, job_id: str) -> Job:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        job: Job = (await client.get(f"/v1/jobs/{job_id}")).json()
        if job["status"] == "completed":
            return job
        if job["status"] in ("failed", "cancelled"):
            raise SystemExit(f"{job_id}: {job['error']}")
        await asyncio.sleep(0.05)
    raise SystemExit(f"{job_id} did not end within {WAIT_SECONDS:.0f} s")


def batch_curve(address: str) -> list[float]:
    """Seconds of a forward of 1 to TOGETHER requests, as the denoiser reports them with its heartbeats."""
    deadline = time.monotonic() + WAIT_SECONDS
    with Registry(address) as registry:
        while time.monotonic() < deadline:
            told = [forward for peer in registry.peers() for forward in peer.forwards]
            seconds = {forward.requests: forward.seconds for forward in told}
            if set(range(1, TOGETHER + 1)) <= set(seconds):
                if len({forward.shape for forward in told}) > 1:
                    raise SystemExit("forwards of several shapes: this benchmark is of one")
                return [seconds[number] for number in range(1, TOGETHER + 1)]
            time.sleep(0.5)
    raise SystemExit(f"no denoiser told of forwards of 1 to {TOGETHER} requests")


def seconds_of(jobs: Sequence[Job]) -> list[float]:
    return sorted(job["completed_at"] - job["created_at"] for job in jobs)


def scenario(alone: Sequence[Job], forwards: Sequence[float], steps: int) -> dict[str, Any]:
    """A fleet like this one. What a step takes beside its forward is each request's own, and not shared."""

    def median(stage: str, *fields: str) -> float:
        found = (one for job in alone for one in job["stages"] if one["stage"] == stage)
        return statistics.median(sum(one[field] for field in fields) for one in found)

    compute = {stage: median(stage, "compute_seconds", "publish_seconds") for stage in ("encode", "denoise", "decode")}
    transfers = [median(stage, "transfer_seconds") for stage in ("denoise", "decode")]
    whole = statistics.median(seconds_of(alone))
    rest = max(0.0, whole - sum(compute.values()) - sum(transfers))
    beside = max(0.0, compute["denoise"] / steps - forwards[0])
    one = forwards[0] + beside
    # Of what the curve is a multiple of: that may be slower than jobs that were alone a minute earlier.
    compute["denoise"] = steps * one
    return {
        "shapes": {"digits": {**compute, "steps": steps}},
        "fleet": [
            {"roles": ["encoder"], "peers": 1},
            {
                "roles": ["denoiser"],
                "peers": 1,
                "capacity": TOGETHER,
                "batch": [(seconds + number * beside) / one for number, seconds in enumerate(forwards, 1)],
            },
            {"roles": ["decoder"], "peers": 1},
        ],
        "transferSeconds": statistics.fmean(transfers),
        # A stream's latency is drawn up to this.
        "latencySeconds": min(1.0, 2 * rest / MESSAGES),
    }


def simulated(fleet: dict[str, Any], jobs: Sequence[Job], folder: Path) -> dict[str, float]:
    """Figures of the same arrivals in virtual time."""
    file, trace = folder / "fleet.yaml", folder / "trace.csv"
    file.write_text(yaml.safe_dump(fleet))
    first = min(job["created_at"] for job in jobs)
    with trace.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("arrival", "shape"))
        rows.writerows((at, "digits") for at in sorted(job["created_at"] - first for job in jobs))
    command = [sys.executable, "-m", "dpipe", "simulate", "--scenario", str(file), "--trace", str(trace)]
    options = ["--policy", "Deadline", "--no-bound", "--seeds", "5", "--json"]
    told = subprocess.run([*command, *options], check=True, capture_output=True, text=True, timeout=WAIT_SECONDS).stdout
    figures: dict[str, float] = json.loads(told)[0]["figures"]
    return {"jobs/s": figures["per_second"], "p50 s": figures["p50"], "p95 s": figures["p95"]}


def real(jobs: Sequence[Job]) -> dict[str, float]:
    first, last = min(job["created_at"] for job in jobs), max(job["completed_at"] for job in jobs)
    seconds = seconds_of(jobs)
    # By the simulator's own rule: jobs that share forwards end in crowds, and interpolation differs much between them.
    return {"jobs/s": len(jobs) / (last - first), "p50 s": quantile(seconds, 0.5), "p95 s": quantile(seconds, 0.95)}


def measured_fleet(router: Router, address: str) -> tuple[list[Job], list[float]]:
    """Jobs that are alone, and the seconds of a forward of 1 to TOGETHER requests, by a load of each number."""
    alone = asyncio.run(router.in_turn(ALONE))
    for number in range(2, TOGETHER + 1):
        asyncio.run(router.play([0.0] * number))
    return alone, batch_curve(address)


def measure(options: argparse.Namespace, round_: int, table: Table) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        LocalPipeline(load_pipeline(resource()), data_dir=Path(name)) as local,
    ):
        local.wait_ready(STARTUP_SECONDS)
        router = Router(local.http_url, options.steps)
        asyncio.run(router.in_turn(3))
        before = measured_fleet(router, local.grpc_address)
        arrivals, rng = [0.0] * options.jobs, random.Random(round_)
        for load in ("all at once", f"Poisson at {LOAD:g}"):
            jobs = asyncio.run(router.play(arrivals))
            # Before and after each load, since what a machine bears changes within minutes.
            after = measured_fleet(router, local.grpc_address)
            forwards = [statistics.fmean(pair) for pair in zip(before[1], after[1], strict=True)]
            fleet = scenario(before[0] + after[0], forwards, options.steps)
            found, said = real(jobs), simulated(fleet, jobs, Path(name))
            cells = [f"{found[key]:.2f} / {said[key]:.2f} ({said[key] / found[key]:.2f})" for key in found]
            curve = " ".join(f"{share:.2f}" for share in fleet["fleet"][1]["batch"])
            drift = " ".join(f"{last / first:.2f}" for first, last in zip(before[1], after[1], strict=True))
            table.add_row(load, *cells, curve, drift)
            before, rate, arrivals = after, LOAD * found["jobs/s"], [0.0]
            while len(arrivals) < options.jobs:
                arrivals.append(arrivals[-1] + rng.expovariate(rate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    table = Table("load", "jobs/s", "p50 s", "p95 s", "batch curve", "after / before", title="real / simulated (ratio)")
    for round_ in range(options.rounds):
        measure(options, round_, table)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
