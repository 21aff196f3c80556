"""`dpipe generate`, from the arguments to the files and the table of times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from dpipe.client import times
from dpipe.client.following import Result, failures, progress_bars, run_jobs, save
from dpipe.client.http import Job, RouterClient, RouterError

_FORMATS: Final = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
_VIDEO_SUFFIX: Final = ".mp4"


def output_format(file: Path, *, video: bool) -> str | None:
    """What the router is asked to make for this file name; None for a video. Raises ValueError."""
    suffix = file.suffix.lower()
    if video:
        if suffix != _VIDEO_SUFFIX:
            raise ValueError(f"--output {file}: a video is written as {_VIDEO_SUFFIX}")
        return None
    if suffix not in _FORMATS:
        raise ValueError(
            f"--output {file}: end the name with one of {', '.join(_FORMATS)} (or {_VIDEO_SUFFIX} and --video)"
        )
    return _FORMATS[suffix]


def adapter(text: str) -> dict[str, object]:
    """NAME or NAME:SCALE, as the API has it. Raises ValueError."""
    name, given, scale = text.partition(":")
    if not given:
        return {"name": name}
    try:
        return {"name": name, "scale": float(scale)}
    except ValueError:
        raise ValueError(f"--adapter {text}: what follows the name is its scale, such as {name}:0.8") from None


def pictured(option: str, text: str) -> tuple[dict[str, object], Path]:
    """NAME=FILE or NAME=FILE:SCALE of an option: as the API has it, and the picture. Raises ValueError."""
    name, given, rest = text.partition("=")
    file, _, scale = rest.rpartition(":")
    found: dict[str, object] = {"name": name}
    path = Path(rest)
    # A file's name may have colons of its own.
    if file and not path.is_file():
        try:
            found, path = {"name": name, "scale": float(scale)}, Path(file)
        except ValueError:
            raise ValueError(f"{option} {text}: what follows the file is its scale, such as {file}:0.8") from None
    if not (name and given and path.is_file()):
        example = f"{name or 'name'}=picture.png"
        raise ValueError(f"{option} {text}: there is no file {path}: give a name and a picture, as in {example}")
    return found, path


async def generate_files(
    url: str,
    request: Mapping[str, object],
    pictures: Sequence[tuple[str, Path]],
    output: Path,
    *,
    video: bool,
    as_json: bool,
) -> int:
    """`pictures`: by the fields of the form that they go into, in order.

    The exit status: 0 when every job completed. Progress goes to standard error, JSON to standard output."""
    progress = Console(stderr=True, quiet=as_json)
    try:
        async with RouterClient(url) as client:
            if video:
                await _refuse_images(client)
            files = [(field, (picture.name, picture.read_bytes())) for field, picture in pictures]
            with progress_bars(progress) as on_change:
                jobs = await run_jobs(client, request, files, on_change)
            finished = [job for job in jobs if job["status"] == "completed"]
            results = await save(client, finished, output)
    except RouterError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False)
        return 1
    if as_json:
        Console().print_json(json.dumps(_as_json(jobs, results)))
    else:
        _report(results, Console())
    for line in failures(jobs):
        Console(stderr=True).print(line, style="red", highlight=False)
    return 0 if len(finished) == len(jobs) else 1


async def _refuse_images(client: RouterClient) -> None:
    models = await client.models()
    if models and all(model["output"] != "video" for model in models):
        names = ", ".join(model["id"] for model in models if "parent" not in model)
        raise RouterError(f"{names} makes pictures, not videos: leave --video out, or serve a model for videos")


def _report(results: Sequence[Result], console: Console) -> None:
    for result in results:
        for file in result.files:
            console.print(f"{file}  seed {result.job['parameters']['seed']}", highlight=False, soft_wrap=True)
    if results:
        console.print(times.table([result.job for result in results]))


def _as_json(jobs: Sequence[Job], results: Sequence[Result]) -> list[Job]:
    files = {result.job["id"]: [str(file) for file in result.files] for result in results}
    return [{**job, "files": files.get(job["id"], [])} for job in jobs]
