"""What it saves that a job goes where its LoRA adapters are loaded: loads, and the time of requests that name one.

    python benchmarks/adapters.py [--jobs N] [--seeds N]

Four denoisers on virtual time, with room for four adapters each beside the model. Of the requests 16 % name one of 20
adapters, by Zipf's law, and a load takes 4.4 s, as in a published trace of production (GenTD26); denoising takes 20 s,
give or take 30 %. Workers tell what is loaded every five seconds. The router's own core runs, by `dpipe simulate`'s
workers, with `Policy.compared` as it is and at 1, where nobody is preferred.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from diffusion_router.core import Policy
from dpipe.simulate.fleet import Fleet, Group, Memory, Shape
from dpipe.simulate.load import Spread, poisson
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Scenario
from dpipe.simulate.studies import DECODER, DENOISER, ENCODER

DENOISERS = 4
SECONDS = 20.0
SHARE = 0.16
NAMES = tuple(f"adapter-{number}" for number in range(1, 21))
FLEET = Fleet(
    (Group(ENCODER, 1, slots=65_536), Group(DENOISER, DENOISERS), Group(DECODER, 1)),
    {"picture": Shape("picture", 0.1, SECONDS, 0.5, 20)},
    memory=Memory(room=4, load_seconds=4.4),
)
SPREAD = Spread(scale=(0.7, 1.3), adapters=NAMES, adapted=SHARE)
LOADS = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Found:
    named: int
    """Requests that name an adapter."""
    loads: int
    seconds: list[float]
    """Of each of them, from its arrival to its end."""

    def p95(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1]


def play(load: float, jobs: int, seed: int, compared: int) -> Found:
    """Poisson arrivals at this share of what the denoisers could do without a load."""
    requests = poisson(load * DENOISERS / SECONDS, jobs, {"picture": 1}, SPREAD)
    scenario = Scenario("adapters", FLEET, requests, adapters=frozenset(NAMES))
    outcome = Simulation(scenario, Policy(compared=compared), seed).run()
    return Found(outcome.adapted, outcome.loads, [end.seconds for end in outcome.ends if end.adapted])


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
            for compared in (1, Policy().compared)
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
