"""`dpipe jobs`: the router's jobs as a table."""

from __future__ import annotations

import time

from rich.table import Table

from dpipe.client.http import Job, RouterClient


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
            job["status"],
            job["stage"] or "",
            job["parameters"]["prompt"][:60],
            f"{job['step']} of {job['steps']}" if job["steps"] else "",
            str(job["parameters"]["seed"]),
            f"{(ended or now) - job['created_at']:.2f}",
            f"{now - job['created_at']:.0f} s",
        )
    return drawn
