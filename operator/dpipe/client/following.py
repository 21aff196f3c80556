"""Jobs followed to their end: submitted, shown step by step, their files fetched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dpipe.client.http import ENDED, Files, Job, RouterClient, RouterError

_CANCEL_SECONDS: Final = 5.0

OnChange = Callable[[Job], None]


@dataclass(frozen=True)
class Result:
    job: Job
    files: tuple[Path, ...]


async def run_jobs(client: RouterClient, request: Mapping[str, object], files: Files, on_change: OnChange) -> list[Job]:
    """Submits and follows until every job has ended. Interrupted, it cancels what is unfinished. Raises RouterError."""
    jobs = await client.submit(request, files)
    last = {job["id"]: job for job in jobs}

    async def follow(job: Job) -> None:
        on_change(job)
        async for change in client.follow(job):
            last[job["id"]] = change
            on_change(change)

    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(follow(job))
    except* RouterError as errors:
        raise errors.exceptions[0] from None
    finally:
        unfinished = [job_id for job_id, job in last.items() if job["status"] not in ENDED]
        await asyncio.shield(_cancel(client, unfinished))
    return [last[job["id"]] for job in jobs]


async def _cancel(client: RouterClient, job_ids: Sequence[str]) -> None:
    # What can't be cancelled now ends at its deadline; the user wants to leave.
    with contextlib.suppress(RouterError, TimeoutError):
        async with asyncio.timeout(_CANCEL_SECONDS):
            await asyncio.gather(*(client.cancel(job_id) for job_id in job_ids))


async def save(client: RouterClient, jobs: Sequence[Job], file: Path) -> list[Result]:
    """Writes every artifact of the finished jobs: to `file`, or numbered beside it when there are several."""
    artifacts = [(job, artifact) for job in jobs for artifact in job["artifacts"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[Path]] = {}
    for number, (job, artifact) in enumerate(artifacts, start=1):
        target = file if len(artifacts) == 1 else file.with_stem(f"{file.stem}-{number}")
        target.write_bytes(await client.download(artifact))
        written.setdefault(job["id"], []).append(target)
    return [Result(job, tuple(written.get(job["id"], ()))) for job in jobs]


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[OnChange]:
    """A bar for each job that moves with its real steps; nothing where nobody watches."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def on_change(job: Job) -> None:
        if job["id"] not in tasks:
            tasks[job["id"]] = bars.add_task(f"seed {job['parameters']['seed']}", total=None, state="")
        task = tasks[job["id"]]
        total = job["steps"] or None
        done = job["status"] == "completed"
        bars.update(task, total=total or (1 if done else None), completed=total or 1 if done else job["step"])
        bars.update(task, state=_state(job))

    with bars:
        yield on_change


def _state(job: Job) -> str:
    if job["status"] != "in_progress":
        return str(job["status"])
    if job["stage"] == "denoise" and job["steps"]:
        return f"denoise, step {job['step']} of {job['steps']}"
    return str(job["stage"] or "queued")


def failures(jobs: Sequence[Job]) -> list[str]:
    """A line for each job that did not complete."""
    return [f"job {job['id']} {job['status']}: {_reason(job)}" for job in jobs if job["status"] != "completed"]


def _reason(job: Mapping[str, Any]) -> str:
    error = job["error"]
    return f"{error['message']} ({error['code']})" if error else "no reason given"
