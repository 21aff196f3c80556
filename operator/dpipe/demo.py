"""`dpipe demo`: the bundled model cut in three roles, ten pictures, and where their time went."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from rich.console import Console

from dpipe.client import times
from dpipe.client.following import failures, progress_bars, run_jobs
from dpipe.client.http import Job, RouterClient
from dpipe.manifests import read_manifests
from dpipe.up.local import LocalPipeline

BUNDLED: Final[Path] = Path(__file__).parent / "up/digits.yaml"
"""The resource of the bundled model, as in examples/digits.yaml."""
READY_SECONDS: Final = 300.0
JOBS_SECONDS: Final = 120.0
SEED: Final = 0
PROMPTS: Final = (
    "a handwritten zero",
    "a red one",
    "a green two on a white background",
    "a handwritten blue three",
    "a yellow four",
    "a purple five on a white background",
    "a handwritten six",
    "an orange seven",
    "a cyan eight",
    "a red nine on a white background",
)
_COLUMNS: Final = 5
_SCALE: Final = 3
_GAP: Final = 6


class DemoError(Exception):
    """The demo did not come to its end. The message is for the user."""


def run_demo(console: Console, file: Path) -> None:
    """Up, ten pictures into `file`, the stage table, down. Bounded in time. Raises DemoError, NotReadyError."""
    with tempfile.TemporaryDirectory(prefix="dpipe-demo-") as folder:
        with LocalPipeline(read_manifests(BUNDLED).pipeline(), data_dir=Path(folder)) as local:
            console.print(f"starting {', '.join(local.pods)}", highlight=False)
            with console.status("loading the model (torch takes its time)"):
                local.wait_ready(READY_SECONDS)
            console.print(f"ready at {local.http_url}; drawing {len(PROMPTS)} digits", highlight=False)
            jobs, pictures = asyncio.run(_draw(local.http_url, console))
    file.parent.mkdir(parents=True, exist_ok=True)
    _grid(pictures).save(file)
    console.print(times.table(jobs))
    console.print(f"the picture is {file.absolute()}", highlight=False, soft_wrap=True)


async def _draw(url: str, console: Console) -> tuple[list[Job], list[bytes]]:
    try:
        async with asyncio.timeout(JOBS_SECONDS), RouterClient(url) as client:
            with progress_bars(console) as on_change:
                requests = [{"prompt": prompt, "seed": SEED} for prompt in PROMPTS]
                nested = await asyncio.gather(*(run_jobs(client, request, [], on_change) for request in requests))
            jobs = [job for jobs in nested for job in jobs]
            if failed := failures(jobs):
                raise DemoError("\n".join(failed))
            return jobs, [await client.download(job["artifacts"][0]) for job in jobs]
    except TimeoutError:
        raise DemoError(f"ten digits took more than {JOBS_SECONDS:.0f} s: something hangs") from None


def _grid(pictures: Sequence[bytes]) -> Image.Image:
    images = [Image.open(BytesIO(picture)).convert("RGB") for picture in pictures]
    side = images[0].width * _SCALE
    rows = -(-len(images) // _COLUMNS)
    step = side + _GAP
    grid = Image.new("RGB", (_COLUMNS * step + _GAP, rows * step + _GAP), (40, 40, 40))
    for index, image in enumerate(images):
        row, column = divmod(index, _COLUMNS)
        enlarged = image.resize((side, side), Image.Resampling.LANCZOS)
        grid.paste(enlarged, (_GAP + column * step, _GAP + row * step))
    return grid
