"""A minute of `make chaos`: whatever is accepted ends once, with the right bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testbed.chaos.run import chaos


async def test_a_minute_of_chaos_breaks_no_promise(tmp_path: Path, report: Callable[[str], None]) -> None:
    outcome = await chaos("tcp", seed=12, seconds=60.0, folder=tmp_path)
    report(outcome.table())
    assert not outcome.broken, outcome.table()
    assert sum(outcome.faults.values()) >= 15
    assert outcome.promises.counts["completed"] >= 3
