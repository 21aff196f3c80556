"""The denoiser's engine on this machine: what the hub costs a step, and what sharing forwards gains.

    python benchmarks/denoiser.py [--rounds N] [--steps N] [--model FOLDER --dtype bfloat16 --device cuda --size 1024]

First each mode against networks that are called at once, one denoising at a time: CPU milliseconds a step. Then 1, 4
and 8 requests together in each mode: steps of all requests a second. Rows of one round alternate, the best of all
rounds is shown with the spread, and ratios are to the first row. Latents of the modes Exact and Guidance must be those
of one request alone, byte for byte.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from diffusion_worker.model import Parameters, Values, load_model, resolve_model
from diffusion_worker.model.batching import Company
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.driver import TaskDriver
from diffusion_worker.work.hub import Hub, Member
from diffusion_worker.work.strand import Ask, Strand
from diffusionpipeline.words import Stage

MODES: Mapping[str, Company] = {"Exact": Company.NONE, "Guidance": Company.OWN, "Requests": Company.ANY}
IN_FLIGHT = (1, 4, 8)


class Plain:
    """Networks called at once, as without any of this: the least that a driver can do."""

    gathers = False

    def ask(self, calls: Sequence[Any]) -> list[Any]:
        return [call.run() for call in calls]

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        return False


@torch.no_grad()
def together(model: Any, requests: Sequence[tuple[Values, Parameters]], company: Company) -> list[Values]:
    hub: Hub[Values] = Hub(Forwards(), max_tokens=1 << 30, max_requests=len(requests))
    members = []
    for place, (values, parameters) in enumerate(requests):

        def work(ask: Ask, values: Values = values, parameters: Parameters = parameters) -> Values:
            return model.denoise(values, parameters, TaskDriver(ask, lambda _step, _steps: None, company))

        members.append(Member(Strand(work), (place,), company, lambda _: None))
        hub.add(members[-1])
    while hub.tick():
        pass
    for member in members:
        if member.strand.error is not None:
            raise member.strand.error
    return [member.strand.result for member in members if member.strand.result is not None]


def seconds_of(work: Callable[[], object], device: str, clock: Callable[[], float]) -> float:
    begun = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def measure(rows: Mapping[str, Callable[[], object]], rounds: int, device: str, clock: Callable[[], float]) -> Any:
    """Seconds of each row, by round; rows alternate. The first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for round_ in range(rounds + 1):
        for name, work in rows.items():
            seconds = seconds_of(work, device, clock)
            if round_:
                taken[name].append(seconds)
    return taken


def bytes_of(values: Values) -> bytes:
    from diffusion_worker import payload

    plan = payload.measure(values)
    buffer = bytearray(plan.nbytes)
    payload.write(plan, memoryview(buffer))
    return bytes(buffer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", type=Path, help="a folder; left out, the bundled model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="pixels, square")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.model or resolve_model("Bundled", "digits", "")
    model = load_model(path=path, stages=frozenset(Stage), dtype=options.dtype, device=options.device)
    requests = []
    for seed in range(max(IN_FLIGHT)):
        parameters = Parameters(
            prompt="a red seven",
            seed=seed,
            num_inference_steps=options.steps,
            width=options.size,
            height=options.size,
        )
        requests.append((model.encode(parameters), parameters))

    console = Console()
    first = requests[:1]
    alone = {
        "networks called at once": lambda: model.denoise(*first[0], Plain()),
        **{mode: lambda company=company: together(model, first, company) for mode, company in MODES.items()},
    }
    cost = Table("one request", "ms a step", "spread", "ratio", title=f"CPU time of the process, {options.steps} steps")
    taken = measure(alone, options.rounds, options.device, time.process_time)
    base = min(next(iter(taken.values())))
    for name, seconds in taken.items():
        best, worst = min(seconds), max(seconds)
        each = 1000 / options.steps
        cost.add_row(name, f"{best * each:.2f}", f"{worst * each:.2f}", f"{best / base:.3f}")
    console.print(cost)

    rows = {
        f"{mode}, {count}": lambda count=count, company=company: together(model, requests[:count], company)
        for mode, company in MODES.items()
        for count in IN_FLIGHT
    }
    gain = Table("mode, requests at once", "steps/s", "spread", "ratio", title="wall time")
    taken = measure(rows, options.rounds, options.device, time.perf_counter)
    base = 0.0
    for name, seconds in taken.items():
        count = int(name.rpartition(" ")[2])
        rates = sorted(count * options.steps / one for one in seconds)
        base = base or rates[-1]
        gain.add_row(name, f"{rates[-1]:.1f}", f"{rates[0]:.1f}", f"{rates[-1] / base:.2f}")
    console.print(gain)

    for mode in ("Exact", "Guidance"):
        alone_bytes = [bytes_of(together(model, [one], MODES[mode])[0]) for one in requests]
        if alone_bytes != [bytes_of(one) for one in together(model, requests, MODES[mode])]:
            raise SystemExit(f"{mode}: latents depend on who else is there")
    console.print("Exact and Guidance: latents are those of each request alone, byte for byte")


if __name__ == "__main__":
    main()
