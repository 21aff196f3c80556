"""Requests that arrive: out of a stated load, or a trace. The same seed makes the same ones, whatever the policy."""

from __future__ import annotations

import csv
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diffusion_router.core import Priority
from dpipe.simulate.errors import InputError

PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}


@dataclass(frozen=True, slots=True)
class Request:
    """at: when it arrives, in seconds. steps: 0: the shape's own. number: of pictures, each a job; they encode the
    same. key: what it encodes; requests of one key encode the same. scale: of the shape's seconds, this one's own.
    deadline: seconds from then after which it is of no use; 0: there are none."""

    at: float
    shape: str
    steps: int = 0
    number: int = 1
    priority: Priority = Priority.STANDARD
    key: str = ""
    tenant: str = ""
    adapters: frozenset[str] = frozenset()
    scale: float = 1.0
    deadline: float = 0.0


Load = Callable[[random.Random], Iterator[Request]]
Mix = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """What is drawn for each request beside its shape. scale: bounds of a uniform factor of the shape's seconds. steps:
    weights of steps a request; none: each shape's own. numbers: weights of pictures a request. keys: prompts, by Zipf's
    law; 0: all differ. adapters: names, of which a share `adapted` of the requests asks for one, by Zipf's law.
    classes: weights of priorities. deadline: bounds of uniform seconds; 0: there is none."""

    scale: tuple[float, float] = (1.0, 1.0)
    steps: Mapping[int, float] | None = None
    numbers: Mapping[int, float] | None = None
    keys: int = 0
    adapters: tuple[str, ...] = ()
    adapted: float = 0.0
    classes: Mapping[Priority, float] | None = None
    deadline: tuple[float, float] = (0.0, 0.0)

    def of(self, at: float, shape: str, rng: random.Random) -> Request:
        low, high = self.scale
        request = Request(at, shape, scale=low if low == high else rng.uniform(low, high))
        if self.steps:
            request = replace(request, steps=rng.choices(list(self.steps), list(self.steps.values()))[0])
        if self.numbers:
            number = rng.choices(list(self.numbers), list(self.numbers.values()))[0]
            request = replace(request, number=number)
        if self.keys:
            request = replace(request, key=f"prompt-{_zipf(self.keys, rng)}")
        if self.adapters and rng.random() < self.adapted:
            request = replace(request, adapters=frozenset({self.adapters[_zipf(len(self.adapters), rng) - 1]}))
        if self.classes:
            request = replace(request, priority=rng.choices(list(self.classes), list(self.classes.values()))[0])
        if self.deadline[1]:
            request = replace(request, deadline=rng.uniform(*self.deadline))
        return request


def poisson(rate: float, jobs: int, mix: Mix, spread: Spread) -> Load:
    """rate: requests a second. mix: weights of shapes."""

    def load(rng: random.Random) -> Iterator[Request]:
        names, weights = list(mix), list(mix.values())
        at = 0.0
        for _ in range(jobs):
            at += rng.expovariate(rate)
            yield spread.of(at, rng.choices(names, weights)[0], rng)

    return load


def bursts(rate: float, variation: float, jobs: int, mix: Mix, spread: Spread) -> Load:
    """rate: requests a second on average. variation: of the gaps between them, the deviation beside the mean, from 1.

    A gap is one of two kinds, each exponential, and half of the time goes by in either (a hyperexponential of balanced
    means): requests that come at nearly twice the rate, and long pauses.
    """

    def load(rng: random.Random) -> Iterator[Request]:
        names, weights = list(mix), list(mix.values())
        squared = variation**2
        short = (1 + math.sqrt((squared - 1) / (squared + 1))) / 2
        at = 0.0
        for _ in range(jobs):
            share = short if rng.random() < short else 1 - short
            at += rng.expovariate(2 * share * rate)
            yield spread.of(at, rng.choices(names, weights)[0], rng)

    return load


def fixed(rate: float, jobs: int, mix: Mix, spread: Spread) -> Load:
    """One request each 1 / rate seconds, shapes in exactly these proportions, in random order."""

    def load(rng: random.Random) -> Iterator[Request]:
        shapes = apportioned(mix, jobs)
        rng.shuffle(shapes)
        for number, shape in enumerate(shapes):
            yield spread.of(number / rate, shape, rng)

    return load


@dataclass(frozen=True, slots=True)
class Phase:
    """For so many seconds one request each 1 / rate seconds; of shapes that alternate in these proportions."""

    seconds: float
    rate: float
    mix: Mix


def phases(parts: Sequence[Phase], spread: Spread) -> Load:
    def load(rng: random.Random) -> Iterator[Request]:
        begin = 0.0
        for part in parts:
            for number, shape in enumerate(apportioned(part.mix, round(part.seconds * part.rate))):
                yield spread.of(begin + number / part.rate, shape, rng)
            begin += part.seconds

    return load


def apportioned(mix: Mix, jobs: int) -> list[str]:
    """So many shapes in these proportions, each as evenly among the others as can be."""
    whole = sum(mix.values())
    owed = dict.fromkeys(mix, 0.0)
    shapes = []
    for _ in range(jobs):
        for name, share in mix.items():
            owed[name] += share / whole
        most = max(owed, key=owed.__getitem__)
        owed[most] -= 1
        shapes.append(most)
    return shapes


_COLUMNS: Final = ("arrival", "shape", "steps", "n", "class", "key", "tenant", "adapters", "deadline")
_NEEDED: Final = ("arrival", "shape")


def trace(file: Path, *, speed: float = 1.0) -> Load:
    """A CSV file with a row a request, in order of arrival. speed: by how much faster than there they arrive.

    Columns are `arrival` (seconds), `shape`, and where there are any `steps`, `n`, `class` (a priority), `key`,
    `tenant`, `adapters` (names with a space between), `deadline` (seconds from the arrival). Raises InputError, with
    the line and the column.
    """

    def load(_: random.Random) -> Iterator[Request]:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            _check_columns(file, rows.fieldnames or ())
            before = 0.0
            for row in rows:
                request = _request(row, f"{file}:{rows.line_num}", speed)
                if request.at < before:
                    raise InputError(f"{file}:{rows.line_num}: arrival: before that of the row above: sort the rows")
                before = request.at
                yield request

    return load


def _check_columns(file: Path, found: Sequence[str]) -> None:
    if missing := [name for name in _NEEDED if name not in found]:
        raise InputError(f"{file}: column {missing[0]} is missing: the first line must name {', '.join(_NEEDED)}")
    if unknown := [name for name in found if name not in _COLUMNS]:
        raise InputError(f"{file}: column {unknown[0]} is not known: columns are {', '.join(_COLUMNS)}")


def _request(row: Mapping[str, str | None], where: str, speed: float) -> Request:
    def number(column: str, least: float, default: float) -> float:
        text = (row.get(column) or "").strip()
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        # What is no number is none of these either.
        if not least <= value < float("inf"):
            raise InputError(f"{where}: {column}: {text!r} is not a number from {least:g}")
        return value

    name = (row.get("class") or "").strip() or "standard"
    if name not in PRIORITIES:
        raise InputError(f"{where}: class: {name!r} is none of {', '.join(PRIORITIES)}")
    shape = (row.get("shape") or "").strip()
    if not shape:
        raise InputError(f"{where}: shape: is empty")
    return Request(
        number("arrival", 0, -1) / speed,
        shape,
        steps=int(number("steps", 0, 0)),
        number=int(number("n", 1, 1)),
        priority=PRIORITIES[name],
        key=(row.get("key") or "").strip(),
        tenant=(row.get("tenant") or "").strip(),
        adapters=frozenset((row.get("adapters") or "").split()),
        deadline=number("deadline", 0, 0),
    )


def _zipf(number: int, rng: random.Random) -> int:
    return rng.choices(range(1, number + 1), cum_weights=_harmonics(number))[0]


@functools.cache
def _harmonics(number: int) -> list[float]:
    return list(itertools.accumulate(1 / rank for rank in range(1, number + 1)))
