"""What a run showed, in figures, and several of them in one table."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from diffusion_router.core import JobStatus, Priority, Stage
from dpipe.simulate.jobs import End
from dpipe.simulate.load import PRIORITIES
from dpipe.simulate.scenario import Outcome

if TYPE_CHECKING:
    from rich.table import Table

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """figures: by name. source: who made them: a policy, or what stands beside the policies. by_class: of each priority
    of which there were jobs."""

    case: str
    source: str
    figures: Figures
    by_shape: Mapping[str, Figures] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)
    by_class: Mapping[str, Figures] = field(default_factory=dict)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)] if ordered else math.nan


def times(ends: Sequence[End], refused: int = 0) -> dict[str, float]:
    """Of completed jobs, from arrival to end; `in_time`: of all jobs, those that were refused included, the share that
    completed within its target."""
    seconds = sorted(end.seconds for end in ends if end.status is JobStatus.COMPLETED)
    return {
        "jobs": float(len(ends)),
        "completed": float(len(seconds)),
        "in_time": sum(end.in_time for end in ends) / (len(ends) + refused) if ends or refused else math.nan,
        "refused": float(refused),
        "p50": quantile(seconds, 0.5),
        "p95": quantile(seconds, 0.95),
        "p99": quantile(seconds, 0.99),
        "max": quantile(seconds, 1.0),
    }


def figures(outcome: Outcome) -> dict[str, float]:
    """Of one run. per_second: completed jobs, from the begin to the last end. predicted: seconds that jobs took beside
    those that were predicted when they were accepted."""
    found = times(outcome.ends, outcome.refused.total())
    completed = (end for end in outcome.ends if end.status is JobStatus.COMPLETED)
    ratios = sorted(end.seconds / end.predicted for end in completed if end.predicted)
    return found | {
        "predicted_p50": quantile(ratios, 0.5),
        "predicted_p95": quantile(ratios, 0.95),
        "per_second": found["completed"] / outcome.seconds if outcome.seconds else math.nan,
        "parks": float(outcome.parks),
        "moved": float(outcome.moved),
        "again_steps": float(outcome.again_steps),
        "again_seconds": outcome.again_seconds,
        "encoded": float(outcome.computed[Stage.ENCODE]),
        "keys": float(outcome.keys),
        "adapted": float(outcome.adapted),
        "loads": float(outcome.loads),
        "loads_each": outcome.loads / outcome.adapted if outcome.adapted else math.nan,
        "events": float(outcome.events),
    }


# Of several runs the largest counts, or all together; of other figures the mean.
_LARGEST = frozenset({"max"})
_SUMS = frozenset(
    {
        "jobs",
        "completed",
        "refused",
        "parks",
        "moved",
        "again_steps",
        "again_seconds",
        "encoded",
        "keys",
        "adapted",
        "loads",
        "events",
        "faults",
    }
)


def together(runs: Sequence[Figures]) -> dict[str, float]:
    """Of runs of the same case: counts added up, the largest maximum, and the mean of each share and quantile."""
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs if not math.isnan(run[name])]
        if not values:
            found[name] = math.nan
        elif name in _SUMS:
            found[name] = sum(values)
        else:
            found[name] = max(values) if name in _LARGEST else fmean(values)
    return found


def _apart(outcome: Outcome, kind: Callable[[str, int], str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Of each kind of jobs, by shape and priority, their times."""
    ends: dict[str, list[End]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for (shape, priority), number in outcome.refused.items():
        refused[kind(shape, priority)] += number
    for end in outcome.ends:
        ends[kind(end.shape, end.priority)].append(end)
    for name in {**ends, **refused}:
        yield name, times(ends[name], refused[name])


def row(case: str, source: str, outcomes: Sequence[Outcome], extra: Sequence[Figures] = ()) -> Row:
    """One policy's runs of one case. extra: figures of the case's own, of each run."""
    of_shapes: dict[str, list[dict[str, float]]] = defaultdict(list)
    of_classes: dict[str, list[dict[str, float]]] = defaultdict(list)
    for outcome in outcomes:
        for shape, found in _apart(outcome, lambda shape, _: shape):
            of_shapes[shape].append(found)
        for name, found in _apart(outcome, lambda _, priority: Priority(priority).name.lower()):
            of_classes[name].append(found)
    whole = sum(outcome.seconds for outcome in outcomes)
    used = {
        role: sum(outcome.busy[role] for outcome in outcomes) / (number * whole) if whole else math.nan
        for role, number in outcomes[0].peers.items()
    }
    runs = [figures(outcome) for outcome in outcomes]
    merged = [{**run, **more} for run, more in zip(runs, extra or [{}] * len(runs), strict=True)]
    return Row(
        case,
        source,
        together(merged),
        {name: together(of_shapes[name]) for name in sorted(of_shapes)},
        used,
        {name: together(of_classes[name]) for name in PRIORITIES if name in of_classes},
    )


# ---------------------------------------------------------------- for people and programs


def as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is no number is left out."""
    return [
        {
            "case": row.case,
            "source": row.source,
            "figures": _numbers(row.figures),
            "shapes": {name: _numbers(of_shape) for name, of_shape in row.by_shape.items()},
            "classes": {name: _numbers(of_class) for name, of_class in row.by_class.items()},
            "utilisation": _numbers(row.utilisation),
        }
        for row in rows
    ]


def _numbers(figures: Figures) -> dict[str, float]:
    return {name: round(value, 6) for name, value in figures.items() if not math.isnan(value)}


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    figure: str
    digits: int = 1


TIMES = (
    Column("in time", "in_time", 3),
    Column("p50 s", "p50"),
    Column("p95 s", "p95"),
    Column("p99 s", "p99"),
    Column("max s", "max"),
)


_OF_CLASS: Final = (("in time", "in_time", 3), ("p95 s", "p95", 1), ("refused", "refused", 0))


def table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """One row a case and policy; of all but the first policy of a case each figure's ratio to the first's."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shapes = sorted({name for row in rows for name in row.by_shape})
    roles = list(dict.fromkeys(role for row in rows for role in row.utilisation))
    shown = [column for column in columns if any(_known(row.figures, column.figure) for row in rows)]
    if len(shapes) == 1:
        shapes = []
    found = {name for row in rows for name in row.by_class}
    classes = [name for name in PRIORITIES if name in found and len(found) > 1]
    for heading in ("case", "policy"):
        drawn.add_column(heading)
    for heading in (
        *(column.title for column in shown),
        *(f"{name} p95 s" for name in shapes),
        *(f"{name} {title}" for name in classes for title, _, _ in _OF_CLASS),
        *(f"{role} busy" for role in roles),
    ):
        drawn.add_column(heading, justify="right")
    first: dict[str, Row] = {}
    for row in rows:
        base = first.setdefault(row.case, row)
        cells = [_cell(row.figures, base.figures, column.figure, column.digits, row is base) for column in shown]
        for name in shapes:
            cells.append(_cell(row.by_shape.get(name, {}), base.by_shape.get(name, {}), "p95", 1, row is base))
        for name in classes:
            of_class, first_of_class = row.by_class.get(name, {}), base.by_class.get(name, {})
            cells += [_cell(of_class, first_of_class, figure, digits, row is base) for _, figure, digits in _OF_CLASS]
        cells += [f"{row.utilisation[role]:.2f}" if role in row.utilisation else "" for role in roles]
        drawn.add_row(row.case if row is base else "", row.source, *cells)
    return drawn


def _known(figures: Figures, name: str) -> bool:
    return not math.isnan(figures.get(name, math.nan))


def _cell(figures: Figures, base: Figures, name: str, digits: int, is_base: bool) -> str:
    if not _known(figures, name):
        return ""
    text = f"{figures[name]:,.{digits}f}"
    if is_base or not _known(base, name) or not base[name]:
        return text
    return f"{text} ({figures[name] / base[name]:.2f}x)"
