"""What is admitted at and beyond capacity, in virtual time: how much of it ends in time, and how long it takes beside
what was predicted.

    python benchmarks/admission.py [--jobs N] [--seeds N]

Two denoisers; stages vary by 20 %, one job in five is eight times as large, deadlines are 60 to 180 s. The router's own
core and admission run, as in tests/unit/core/timed.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from diffusion_router.core import JobStatus, Stage
from unit.core.timed import Admitted, Pipeline, in_time

ENCODE, DENOISE, DECODE = Stage
FLEETS = {
    "1 + 2 + 1": {frozenset({ENCODE}): 1, frozenset({DENOISE}): 2, frozenset({DECODE}): 1},
    "monolith x 2": {frozenset(Stage): 2},
}
OF_STAGE = {ENCODE: 0.05, DENOISE: 4.0, DECODE: 0.5}
OF_SHAPE = {"small": 1.0, "large": 8.0}
SHARES = [0.8, 0.2]
LOADS = (0.8, 1.0, 1.5, 2.0, 4.0)


def play(fleet: str, load: float, jobs: int, seed: int, *, accept_late: bool) -> Pipeline:
    made = Pipeline(
        FLEETS[fleet],
        lambda stage, shape: OF_STAGE[stage] * OF_SHAPE[shape] * made.random.uniform(0.8, 1.2),
        seed=seed,
        max_queued=10**6,
    )
    for shape in OF_SHAPE:
        made.submit(shape, timeout=600.0)
    made.run(200.0)
    mean = sum(share * size for share, size in zip(SHARES, OF_SHAPE.values(), strict=True))
    rate = load * 2 / (mean * OF_STAGE[DENOISE])
    for _ in range(jobs):
        shape = made.random.choices(list(OF_SHAPE), SHARES)[0]
        made.submit(shape, 120.0 * made.random.uniform(0.5, 1.5), accept_late=accept_late)
        made.run(made.now + made.random.expovariate(rate))
    made.run()
    return made


def ratios(jobs: list[Admitted]) -> list[float]:
    completed = (job for job in jobs if job.status is JobStatus.COMPLETED and job.ended is not None)
    return sorted((job.ended - job.at) / job.predicted.end for job in completed if job.ended is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    of_time = ("admitted", "of these in time", "in time without admission")
    table = Table("fleet", "load", *of_time, "real / predicted: p5", "p50", "p95")
    for fleet in FLEETS:
        for load in LOADS:
            runs = [play(fleet, load, options.jobs, seed, accept_late=False) for seed in range(options.seeds)]
            late = [play(fleet, load, options.jobs, seed, accept_late=True) for seed in range(options.seeds)]
            admitted = [job for run in runs for job in run.admitted.values()]
            offered = sum(len(run.admitted) + len(run.refused) for run in runs)
            parts = statistics.quantiles(ratios(admitted), n=20)
            table.add_row(
                fleet,
                f"{load:g}",
                f"{len(admitted) / offered:.0%}",
                f"{in_time(admitted):.1%}",
                f"{in_time([job for run in late for job in run.admitted.values()]):.1%}",
                *(f"{parts[index]:.2f}" for index in (0, 9, 18)),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
