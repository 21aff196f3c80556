"""The page job-lifecycle.md, what a job may go through, from the router's own table of moves.

The table is `diffusion_router.core.lifecycle.TRANSITIONS`, by which the router changes the state of every job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from diffusion_router.core.lifecycle import HELD, OUTPUT_OF, TRANSITIONS, JobState, Move

HEAD: Final = """\
# What a job may go through

Written by `make docs` from the table in
[lifecycle.py](../worker/diffusion_router/core/lifecycle.py), by which the router changes the state of every job: a move
that is not here can't happen. A state says the job's status, its stage, whether a task of that stage is under way, and
whether the stage's input is known.
"""
ORDINARY: Final = """
## The ordinary way
"""
ADOPTION: Final = """
## When the router was restarted

A worker that registers tells of tasks and outputs of the router's earlier life, and the job goes on from there. Which
output such a task reads is only known once the worker that keeps it has registered too.
"""
MOVES: Final = """
## Moves

| move | |
| --- | --- |
"""
STATES: Final = """
## States

{always} are left out: every state that has moves has them too.

| state | status | stage | task | input | moves |
| --- | --- | --- | --- | --- | --- |
"""

Edge = tuple[JobState, Move, JobState]


def page() -> str:
    always = _short_ends()
    edges = [
        (state, move, after)
        for state, moves in TRANSITIONS.items()
        for move, after in moves.items()
        if move not in always
    ]
    adopted = [edge for edge in edges if _is_adoption(edge)]
    ordinary = ["[*] --> QUEUED", *_arrows(edge for edge in edges if edge not in adopted)]
    ordinary.append('state "any state that has not ended" as not_ended')
    ordinary += [f"not_ended --> {after.name}: {move.name}" for move, after in always.items()]
    return "".join(
        [
            *(HEAD, ORDINARY, _drawing(ordinary), ADOPTION, _drawing(_arrows(adopted))),
            *(MOVES, *(f"| `{move.name}` | {move.value} |\n" for move in Move)),
            STATES.format(always=" and ".join(f"`{move.name}`" for move in always)),
            *(_row(state, always) for state in JobState),
        ]
    )


def _short_ends() -> dict[Move, JobState]:
    """What can happen to every job that has not ended, and is no output."""
    live = [moves.items() for moves in TRANSITIONS.values() if moves]
    return {
        move: after
        for move, after in live[0]
        if move not in OUTPUT_OF.values() and all((move, after) in moves for moves in live)
    }


def _is_adoption(edge: Edge) -> bool:
    """Whether it needs a worker that tells of the router's earlier life."""
    state, move, _ = edge
    if move in OUTPUT_OF.values():
        ordinary = state.has_task and state.stage is not None and OUTPUT_OF[state.stage] is move
    else:
        ordinary = move not in (*HELD.values(), Move.INPUT_FOUND)
    unfed = state.has_task and not state.has_input and state is not JobState.ENCODING
    return unfed or not ordinary


def _arrows(edges: Iterable[Edge]) -> Iterator[str]:
    """One for all moves from one state to another."""
    labels: dict[tuple[JobState, JobState], list[str]] = {}
    for state, move, after in edges:
        labels.setdefault((state, after), []).append(move.name)
    for (state, after), names in labels.items():
        yield f"{state.name} --> {after.name}: {', '.join(names)}"


def _drawing(lines: Iterable[str]) -> str:
    return "\n```mermaid\nstateDiagram-v2\n" + "".join(f"    {line}\n" for line in lines) + "```\n"


def _row(state: JobState, always: Mapping[Move, JobState]) -> str:
    stage = "" if state.stage is None else state.stage.name.lower()
    has = ["yes" if one else "" for one in (state.has_task, state.has_input)]
    moves = {move: after for move, after in TRANSITIONS[state].items() if move not in always}
    leads = [f"`{move.name}` → `{after.name}`" for move, after in moves.items()]
    return f"| `{state.name}` | {state.status.value} | {stage} | {has[0]} | {has[1]} | {'<br/>'.join(leads)} |\n"
