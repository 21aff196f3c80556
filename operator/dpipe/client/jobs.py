"""`dpipe jobs`: the router's jobs as a table."""

from __future__ import annotations

import time
from typing import Final

from rich.table import Table

from diffusionpipeline.words import PriorityName
from dpipe.client.http import Job, RouterClient
from dpipe.client.times import parked

_STANDARD: Final[PriorityName] = "standard"


async def list_jobs(url: str, status: str | None, limit: int) -> list[Job]:
    """Newest first. Raises RouterError."""
    async with RouterClient(url) as client:
        return await client.jobs(status, limit)


def job_table(jobs: list[Job]) -> Table:
    drawn = Table(box=None, pad_edge=False)
    for name in ("job", "status", "stage", "prompt"):
        drawn.add_column(name, overflow="fold")
    for name in ("steps", "seed", "seconds", "age"):
        drawn.add_column(name, justify="right", no_wrap=True)
    now = time.time()
    for job in jobs:
        ended = job["completed_at"]
        drawn.add_row(
            job["id"],
            _status(job),
            _stage(job),
            job["parameters"]["prompt"][:60],
            f"{job['step']} of {job['steps']}" if job["steps"] else "",
            str(job["parameters"]["seed"]),
            f"{(ended or now) - job['created_at']:.2f}{_target(job)}",
            f"{now - job['created_at']:.0f} s",
        )
    return drawn


# What an older router does not tell is left out.


def _status(job: Job) -> str:
    priority = job.get("priority", _STANDARD)
    return job["status"] if priority == _STANDARD else f"{job['status']}, {priority}"


def _stage(job: Job) -> str:
    waits = parked(job["stages"][-1]) if job["stages"] and not job["completed_at"] else ""
    return f"{job['stage']}, {waits}" if waits else job["stage"] or ""


def _target(job: Job) -> str:
    return f" of {job['target_at'] - job['created_at']:.4g}" if job.get("target_at") else ""
