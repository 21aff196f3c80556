"""Where the time of jobs went: queue, encode, transfer, denoise, transfer, decode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.table import Table

from diffusionpipeline.words import STAGES

Job = dict[str, Any]


@dataclass(frozen=True)
class Row:
    name: str
    seconds: float
    note: str


def rows(jobs: Sequence[Job]) -> list[Row]:
    """The mean over finished jobs. `other` is what is left of the whole: messages, bookkeeping, uploads of inputs."""

    def average(stage: str, *fields: str) -> float:
        sums = (
            sum(report[field] for report in _reports(job, stage) for field in fields if _spent(report, field))
            for job in jobs
        )
        return float(mean(sums))

    found = [
        Row("queue", sum(average(stage, "queue_seconds", "wait_seconds") for stage in STAGES), ""),
        Row("encode", average("encode", "compute_seconds", "publish_seconds"), _pods(jobs, "encode")),
        Row("transfer", average("denoise", "transfer_seconds"), _size(average("denoise", "transfer_bytes"))),
        Row("denoise", average("denoise", "compute_seconds", "publish_seconds"), _pods(jobs, "denoise")),
        Row("transfer", average("decode", "transfer_seconds"), _size(average("decode", "transfer_bytes"))),
        Row("decode", average("decode", "compute_seconds", "publish_seconds"), _pods(jobs, "decode")),
    ]
    whole = mean(job["completed_at"] - job["created_at"] for job in jobs)
    other = max(0.0, whole - sum(row.seconds for row in found))
    return [*found, Row("other", other, ""), Row("in all", whole, "")]


def table(jobs: Sequence[Job]) -> Table:
    title = "time by stage" if len(jobs) == 1 else f"time by stage, mean of {len(jobs)} jobs"
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    drawn.add_column("stage")
    drawn.add_column("ms", justify="right")
    drawn.add_column("", style="dim")
    for row in rows(jobs):
        style = "bold" if row.name == "in all" else None
        drawn.add_row(row.name, f"{row.seconds * 1000:.1f}", row.note, style=style)
    return drawn


def _reports(job: Job, stage: str) -> Iterable[dict[str, Any]]:
    return (report for report in job["stages"] if report["stage"] == stage)


def _spent(report: dict[str, Any], field: str) -> bool:
    """Whether it is time of this job, and not of the one whose encoding it shares."""
    return field == "queue_seconds" or not report.get("shared")


def _pods(jobs: Sequence[Job], stage: str) -> str:
    reports = [report for job in jobs for report in _reports(job, stage)]
    parts = [", ".join(sorted({report["pod_name"] for report in reports}))]
    if steps := max((report["steps"] for report in reports), default=0):
        parts.append(f"{steps} steps")
    if shared := sum(bool(report.get("shared")) for report in reports):
        parts.append(f"{shared} shared" if len(jobs) > 1 else "shared")
    pauses = [pause for report in reports if (pause := parked(report))]
    # A task that goes on from where another was parked is no second try.
    if repeated := max(0, sum(report["attempt"] > 1 for report in reports) - len(pauses)):
        parts.append(f"{repeated} tried again")
    if lost := sum(report.get("lost_steps", 0) for report in reports):
        parts.append(f"{lost} steps lost")
    parts += pauses
    return ", ".join(part for part in parts if part)


def parked(report: Job) -> str:
    """Where a task of a stage ended parked; empty: it did not, or the router is one that parks none."""
    told = report.get("parked")
    return f"parked at {told['step']} of {told['steps']}" if told else ""


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
