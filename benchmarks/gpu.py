"""The denoiser's engine on one GPU, beside diffusers' own pipeline in a loop, for the shapes of published models.

    python benchmarks/gpu.py [--models sdxl flux wan] [--minutes 8] [--tiny --device cpu]

For each model, with random weights: seconds a picture of diffusers' own pipeline and of ours, one at a time; steps of
all requests a second with 1, 2, 4 and 8 at once in each mode; and what it takes to park a denoising in its middle and
to go on. Tables are printed as they are done, and what does not fit into the minutes is left out and said. `--tiny`
takes small models, to try the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from denoiser import MODES, bytes_of, seconds_of, together
from rich.console import Console
from rich.table import Table

from diffusion_worker.model import Parameters, Values, load_model
from diffusion_worker.model.batching import Company
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.folder import quieten
from diffusionpipeline.words import Stage

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent / "models")]

AT_ONCE = (1, 2, 4, 8)
ROUNDS = 3


@dataclass(frozen=True)
class Shape:
    """What is asked of a model: request fields."""

    name: str
    width: int
    height: int
    steps: int
    num_frames: int | None = None

    def parameters(self, seed: int) -> Parameters:
        video = self.num_frames is not None
        return Parameters(
            prompt="a red seven",
            seed=seed,
            width=self.width,
            height=self.height,
            num_frames=self.num_frames,
            num_inference_steps=self.steps,
            output_format="mp4" if video else "png",
        )


SHAPES = {
    "sdxl": (Shape("1024", 1024, 1024, 30), Shape("512", 512, 512, 30)),
    "flux": (Shape("1024", 1024, 1024, 20), Shape("512", 512, 512, 20)),
    "wan": (Shape("832x480x33", 832, 480, 10, 33),),
}
TINY = {
    "sdxl": (Shape("64", 64, 64, 4),),
    "flux": (Shape("64", 64, 64, 4),),
    "wan": (Shape("64x64x9", 64, 64, 4, 9),),
}


class Clock:
    """What is left of the minutes."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        return self._end - time.monotonic()


def folder_of(name: str, work: Path, *, tiny: bool) -> Path:
    if tiny:
        from testbed.zoo import FAMILIES, ensure

        return ensure(FAMILIES[{"wan": "wan21"}.get(name, name)].checkpoint)
    import random_weights

    torch.manual_seed(0)
    random_weights.MODELS[name](encoder_layers=2).save_pretrained(work / name)
    return work / name


def classic(path: Path, shape: Shape, options: argparse.Namespace) -> float:
    """Seconds a picture, without its file."""
    from diffusers import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(path, dtype=getattr(torch, options.dtype)).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    asked: dict[str, Any] = {"width": shape.width, "height": shape.height, "num_inference_steps": shape.steps}
    if shape.num_frames is not None:
        asked["num_frames"] = shape.num_frames

    def draw() -> None:
        pipeline("a red seven", generator=torch.Generator("cpu").manual_seed(7), output_type="latent", **asked)

    draw()
    best = min(seconds_of(draw, options.device, time.perf_counter) for _ in range(ROUNDS))
    pipeline = None
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return best


def ours(model: Any, shape: Shape, options: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, int, float]]:
    """Mode, requests at once, and seconds for all of them, each encoded by itself."""
    requests = [shape.parameters(seed) for seed in range(max(AT_ONCE))]

    def draw(count: int, company: Company) -> None:
        together(model, [(model.encode(one), one) for one in requests[:count]], company)

    for mode, company in MODES.items():
        for count in AT_ONCE if mode == "Requests" else AT_ONCE[:1]:
            taken = []
            for round_ in range(ROUNDS + 1):
                if clock.left() < 5:
                    return
                seconds = seconds_of(partial(draw, count, company), options.device, time.perf_counter)
                if round_:
                    taken.append(seconds)
            yield mode, count, min(taken)


def parking(model: Any, shape: Shape, options: argparse.Namespace) -> str:
    """What it costs to leave a denoising in its middle, and whether it ends as it would have."""
    request = shape.parameters(7)
    values = model.encode(request)
    undisturbed = bytes_of(model.denoise(values, request, Direct()))
    parked: list[Values] = []
    whole = seconds_of(lambda: model.denoise(values, request, Direct()), options.device, time.perf_counter)
    half = shape.steps // 2

    def park() -> None:
        parked.append(model.denoise(values, request, Direct(park_at=half)))

    def resume() -> None:
        parked.append(model.denoise(parked[0], request, Direct()))

    cost = seconds_of(park, options.device, time.perf_counter) + seconds_of(resume, options.device, time.perf_counter)
    same = bytes_of(parked[1]) == undisturbed
    size = len(bytes_of(parked[0])) - len(bytes_of(values))
    verdict = "the same bytes" if same else "OTHER BYTES"
    return f"parked at step {half} and resumed: {1e3 * (cost - whole):+.0f} ms, {size / 1e6:.2f} MB more, {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    quieten()
    clock, console = Clock(options.minutes), Console(width=120)
    with tempfile.TemporaryDirectory() as work:
        for name in options.models:
            if clock.left() < 30:
                console.print(f"{name}: left out, {options.minutes:g} minutes are over")
                continue
            path = folder_of(name, Path(work), tiny=options.tiny)
            model: Any = None
            for shape in (TINY if options.tiny else SHAPES)[name]:
                loop = classic(path, shape, options)
                model = model or load_model(
                    path=path, stages=frozenset(Stage), dtype=options.dtype, device=options.device
                )
                title = f"{name} {shape.name}, {shape.steps} steps, {options.dtype} on {options.device}"
                table = Table("", "at once", "s", "steps/s", "of the loop", "of one", title=title)
                table.add_row("diffusers in a loop", "1", f"{loop:.2f}", f"{shape.steps / loop:.1f}", "1.00x", "")
                first = 0.0
                for mode, count, seconds in ours(model, shape, options, clock):
                    rate = count * shape.steps / seconds
                    first = first if count > 1 else rate
                    of_loop = f"{seconds / loop:.2f}x" if count == 1 else ""
                    table.add_row(mode, str(count), f"{seconds:.2f}", f"{rate:.1f}", of_loop, f"{rate / first:.2f}x")
                console.print(table)
                console.print(parking(model, shape, options))


if __name__ == "__main__":
    main()
