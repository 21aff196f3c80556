"""`dpipe jobs` says how a job is to be served, where its request did."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from dpipe.client.jobs import job_table


def job(**values: Any) -> dict[str, Any]:
    return {
        "id": "job_1",
        "status": "in_progress",
        "stage": "denoise",
        "parameters": {"prompt": "a red seven", "seed": 3},
        "step": 7,
        "steps": 50,
        "created_at": 100.0,
        "completed_at": 112.0,
        "stages": [],
        **values,
    }


def row(**values: Any) -> str:
    console = Console(width=200)
    with console.capture() as text:
        console.print(job_table([job(**values)]))
    return text.get().splitlines()[1].strip()


def test_a_job_of_a_request_that_said_nothing() -> None:
    expected = "job_1  in_progress  denoise  a red seven  7 of 50  3  12.00"
    for values in ({}, {"target_at": None, "priority": "standard"}):
        assert " ".join(row(**values).split()).startswith(" ".join(expected.split()))


def test_its_priority_and_its_target_are_shown() -> None:
    shown = row(priority="batch", target_at=130.0)
    assert "in_progress, batch" in shown
    assert "12.00 of 30" in shown


def test_one_that_is_parked_says_where() -> None:
    stages = [{"parked": None}, {"parked": {"step": 7, "steps": 50}}]
    assert "denoise, parked at 7 of 50" in row(stages=stages, completed_at=None)
    assert "parked" not in row(stages=[*stages, {"parked": None}], completed_at=None)
