"""The table of a job's moves, the book that keeps to it, and the page that is drawn from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_router.core import Core, JobState, JobSubmitted, Policy
from diffusion_router.core.lifecycle import TRANSITIONS, ImpossibleMove, Move

DOCS = Path(__file__).parents[3] / "docs"


def test_every_state_has_its_row_is_reached_and_leads_to_an_end() -> None:
    assert list(TRANSITIONS) == list(JobState)
    entered = {after for moves in TRANSITIONS.values() for after in moves.values()}
    assert entered == set(JobState) - {JobState.QUEUED}
    for state, moves in TRANSITIONS.items():
        ends = {move for move, after in moves.items() if after.status.ended}
        assert ends == (set() if state.status.ended else {Move.DECODED, Move.FAILED, Move.CANCELLED}), state


def test_no_move_brings_a_job_back_that_has_been_started_or_has_ended() -> None:
    order = {"queued": 0, "in_progress": 1}
    for state, moves in TRANSITIONS.items():
        for after in moves.values():
            assert order.get(after.status, 2) >= order.get(state.status, 2), (state, after)


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_the_book_makes_the_moves_of_the_table_and_refuses_all_others(state: JobState) -> None:
    for move in Move:
        core: Core[str] = Core(Policy(), epoch="e", now=0.0)
        core.handle(JobSubmitted("j", 1e9), 0.0)
        job = core.jobs["j"]
        job.state = state
        if move in TRANSITIONS[state]:
            core.move(job, move)
            assert job.state is TRANSITIONS[state][move]
        else:
            with pytest.raises(ImpossibleMove, match=f"{move.name} of a job that is {state.name}"):
                core.move(job, move)
            assert job.state is state
