"""What it saves that a job goes where its LoRA adapters are loaded: loads, and the time of requests that name one.

    python benchmarks/adapters.py [--jobs N] [--seeds N]

Four denoisers on virtual time, with room for four adapters each beside the model. Of the requests 16 % name one of 20
adapters, by Zipf's law, and a load takes 4.4 s, as in a published trace of production (GenTD26); denoising takes 20 s,
give or take 30 %. Workers tell what is loaded every five seconds. The router's own core runs, as in
tests/unit/core/painters.py, with `Policy.compared` as it is and at 1, where nobody is preferred.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from diffusion_router.core import Stage
from unit.core.painters import Painters
from unit.core.timed import POLICY

ENCODE, DENOISE, DECODE = Stage
DENOISERS = 4
ROOM = 4
LOAD_SECONDS = 4.4
SHARE = 0.16
NAMES = [f"adapter-{number}" for number in range(1, 21)]
ZIPF = [1 / number for number in range(1, len(NAMES) + 1)]
SECONDS = {ENCODE: 0.1, DENOISE: 20.0, DECODE: 0.5}
LOADS = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Found:
    named: int
    """Requests that name an adapter."""
    loads: int
    seconds: list[float]
    """Of each of them, from its acceptance to its end."""

    def p95(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1]


def play(load: float, jobs: int, seed: int, compared: int) -> Found:
    """Poisson arrivals at this share of what the denoisers could do without a load."""
    made = Painters(
        DENOISERS,
        NAMES,
        room=ROOM,
        seconds=SECONDS,
        load=LOAD_SECONDS,
        seed=seed,
        policy=replace(POLICY, compared=compared),
    )
    rate = load * DENOISERS / SECONDS[DENOISE]
    for _ in range(jobs):
        named = made.random.choices(NAMES, ZIPF) if made.random.random() < SHARE else ()
        made.submit("", 1e9, accept_late=True, adapters=frozenset(named))
        made.run(made.now + made.random.expovariate(rate))
    made.run()
    of_named = [job for job in made.admitted.values() if job.adapters]
    return Found(len(of_named), made.loads, [job.ended - job.at for job in of_named if job.ended is not None])


def together(found: Sequence[Found]) -> Found:
    return Found(
        sum(one.named for one in found),
        sum(one.loads for one in found),
        [seconds for one in found for seconds in one.seconds],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table = Table(
        title=f"requests with an adapter, {options.seeds} times {options.jobs} jobs: whose turn, preferred, ratio"
    )
    table.add_column("load", justify="right")
    for figure in ("loads a request", "mean s", "p95 s"):
        for column in (figure, "preferred", "ratio"):
            table.add_column(column, justify="right")
    for load in LOADS:
        turns, preferred = (
            together([play(load, options.jobs, seed, compared) for seed in range(options.seeds)])
            for compared in (1, POLICY.compared)
        )
        cells = [f"{load:.1f}"]
        for before, after in (
            (turns.loads / turns.named, preferred.loads / preferred.named),
            (statistics.mean(turns.seconds), statistics.mean(preferred.seconds)),
            (turns.p95(), preferred.p95()),
        ):
            cells += [f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}"]
        table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
