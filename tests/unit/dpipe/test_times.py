"""The table of times adds up: what no stage accounts for is shown, not hidden."""

from __future__ import annotations

from typing import Any

import pytest

from dpipe.client.times import rows


def report(stage: str, **values: float) -> dict[str, Any]:
    fields = (
        "queue_seconds",
        "wait_seconds",
        "transfer_seconds",
        "transfer_bytes",
        "compute_seconds",
        "publish_seconds",
    )
    return {
        "stage": stage,
        "pod_name": f"p-{stage}-0",
        "attempt": 1,
        "steps": 0,
        **dict.fromkeys(fields, 0.0),
        **values,
    }


def job(seconds: float = 1.0, *reports: dict[str, Any]) -> dict[str, Any]:
    return {"created_at": 100.0, "completed_at": 100.0 + seconds, "stages": list(reports)}


SPLIT = (
    report("encode", queue_seconds=0.01, compute_seconds=0.1, publish_seconds=0.02),
    report("denoise", wait_seconds=0.03, transfer_seconds=0.05, transfer_bytes=2048, compute_seconds=0.4, steps=8),
    report("decode", transfer_seconds=0.01, transfer_bytes=512, compute_seconds=0.1, publish_seconds=0.1),
)


def test_each_stage_and_each_transfer_has_its_row_and_the_rows_add_up() -> None:
    found = rows([job(1.0, *SPLIT)])
    assert [row.name for row in found] == [
        "queue",
        "encode",
        "transfer",
        "denoise",
        "transfer",
        "decode",
        "other",
        "in all",
    ]
    assert [round(row.seconds, 3) for row in found] == [0.04, 0.12, 0.05, 0.4, 0.01, 0.2, 0.18, 1.0]
    assert [found[2].note, found[4].note] == ["2.0 KiB", "512 B"]
    assert found[3].note == "p-denoise-0, 8 steps"


def test_several_jobs_are_averaged() -> None:
    found = rows([job(1.0, *SPLIT), job(3.0, *SPLIT)])
    assert found[-1].seconds == pytest.approx(2.0)
    assert found[1].seconds == pytest.approx(0.12)


def test_a_stage_that_was_tried_again_counts_both_tries_and_says_so() -> None:
    again = {**report("encode", compute_seconds=0.2), "attempt": 2}
    found = rows([job(2.0, *SPLIT, again)])
    assert found[1].seconds == pytest.approx(0.32)
    assert found[1].note.endswith("1 tried again")


def test_a_denoising_that_was_parked_says_where_and_was_not_tried_again() -> None:
    halves = [
        {**report("denoise", compute_seconds=0.1), "parked": {"step": 7, "steps": 50}},
        {**report("denoise", compute_seconds=0.3), "parked": None, "attempt": 2},
    ]
    row = rows([job(2.0, *halves)])[3]
    assert (row.seconds, row.note) == (pytest.approx(0.4), "p-denoise-0, parked at 7 of 50")


def test_an_encoding_that_another_job_had_made_took_this_one_nothing_but_its_wait() -> None:
    shared = {**report("encode", queue_seconds=0.02, wait_seconds=5.0, compute_seconds=9.0), "shared": True}
    found = rows([job(1.0, shared, *SPLIT[1:])])
    assert [round(row.seconds, 3) for row in found[:2]] == [0.05, 0.0]
    assert found[1].note == "p-encode-0, shared"
    assert sum(row.seconds for row in found[:-1]) == pytest.approx(1.0)
    assert rows([job(1.0, shared), job(1.0, shared), job(1.0, *SPLIT)])[1].note == "p-encode-0, 2 shared"
