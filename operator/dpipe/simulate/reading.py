"""A scenario out of a file: its fields, their bounds, and errors that name them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from diffusion_router.core import Policy
from dpipe.simulate.errors import InputError
from dpipe.simulate.faults import Fault, Kind, drawn
from dpipe.simulate.fleet import ROLES, Fleet, Group, Memory, Shape
from dpipe.simulate.load import PRIORITIES, Load, Phase, Spread, bursts, fixed, phases, poisson, trace
from dpipe.simulate.report import TIMES, Column
from dpipe.simulate.scenario import Scenario
from dpipe.simulate.studies import Case, Study

Seconds = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Weights = Annotated[dict[str, Positive], Field(min_length=1, max_length=100)]
_COLUMNS = (
    *TIMES,
    Column("jobs/s", "per_second", 3),
    Column("refused", "refused", 0),
    Column("real / predicted p50", "predicted_p50", 2),
    Column("p95", "predicted_p95", 2),
    Column("parks", "parks", 0),
    Column("again s", "again_seconds", 0),
    Column("encoded", "encoded", 0),
    Column("keys", "keys", 0),
    Column("loads", "loads", 0),
)


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class ShapePart(_Part):
    encode: Seconds = 0.0
    denoise: Seconds
    decode: Seconds = 0.0
    steps: Count


class GroupPart(_Part):
    roles: Annotated[list[Literal["encoder", "denoiser", "decoder"]], Field(min_length=1, max_length=3)]
    peers: Annotated[int, Field(ge=1, le=10_000)]
    capacity: Annotated[int, Field(ge=1, le=1024)] = 1
    slots: Annotated[int, Field(ge=2, le=65_536)] = 64
    batch: Annotated[list[Positive], Field(max_length=1024)] = []


class AdaptersPart(_Part):
    names: Annotated[list[str], Field(min_length=1, max_length=1000)]
    share: Annotated[float, Field(ge=0, le=1)]
    room: Annotated[int, Field(ge=1, le=1000)] = 1
    load_seconds: Seconds = 0.0


class PhasePart(_Part):
    seconds: Positive
    rate: Positive
    mix: Weights


class LoadPart(_Part):
    """Exactly one of rate, load and phases."""

    arrivals: Literal["poisson", "fixed", "bursts"] = "poisson"
    variation: Annotated[float, Field(ge=1, le=100)] = 1.0
    rate: Positive | None = None
    load: Positive | None = None
    jobs: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    mix: Weights | None = None
    phases: Annotated[list[PhasePart], Field(max_length=1000)] | None = None
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    steps: Annotated[dict[Count, Positive], Field(min_length=1, max_length=100)] | None = None
    numbers: dict[Annotated[int, Field(ge=1, le=100)], Positive] | None = None
    keys: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    classes: Annotated[dict[Literal["interactive", "standard", "batch"], Positive], Field(min_length=1)] | None = None
    deadline: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> LoadPart:
        if sum(given is not None for given in (self.rate, self.load, self.phases)) != 1:
            raise ValueError("give exactly one of rate (requests a second), load (of what the fleet can do) and phases")
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale: the first must not exceed the second")
        if self.variation != 1 and self.arrivals != "bursts":
            raise ValueError("variation: is of arrivals that are bursts")
        if self.deadline is not None and self.deadline[0] > self.deadline[1]:
            raise ValueError("deadline: the first must not exceed the second")
        return self


class FaultPart(_Part):
    kind: Kind
    at: Seconds
    peer: str = ""
    seconds: Seconds = 0.0


class DrawnPart(_Part):
    number: Annotated[int, Field(ge=1, le=10_000_000)]
    every: Positive


class ScenarioFile(_Part):
    shapes: Annotated[dict[str, ShapePart], Field(min_length=1, max_length=100)]
    fleet: Annotated[list[GroupPart], Field(min_length=1, max_length=100)]
    load: LoadPart | None = None
    adapters: AdaptersPart | None = None
    transfer_seconds: Seconds = 0.0
    park_seconds: Seconds = 0.0
    latency_seconds: Annotated[float, Field(ge=0, le=1)] = 0.0
    target_factor: Positive = 3.0
    max_queued: Count | None = None
    trace_speed: Positive = 1.0
    faults: Annotated[list[FaultPart], Field(max_length=100_000)] | None = None
    drawn_faults: DrawnPart | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1


def read_study(file: Path, requests: Path | None, jobs: int | None) -> Study:
    """requests: a trace, in place of the file's load. jobs: in place of the load's number. Raises InputError."""
    found = _parsed(file)
    fleet = _fleet(file, found)
    load = _load(file, found, fleet, requests, jobs)
    names = frozenset(found.adapters.names) if found.adapters else frozenset[str]()
    scenario = Scenario(
        str(file),
        fleet,
        load,
        found.target_factor,
        _faults(file, found, fleet),
        found.latency_seconds,
        names,
        max_queued=found.max_queued or math.inf,
    )
    # Of a load that does not end in a while the bound is all that is told; a trace may be of any length.
    return Study(file.stem, (Case(file.stem, scenario),), found.seeds, _COLUMNS)


def _parsed(file: Path) -> ScenarioFile:
    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{file}: is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is no text") from None
    try:
        return ScenarioFile.model_validate(data)
    except ValidationError as error:
        raise InputError("\n".join(f"{file}: {_told(fault)}" for fault in error.errors())) from None


def _told(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]


def _fleet(file: Path, found: ScenarioFile) -> Fleet:
    groups = tuple(
        Group(
            frozenset(ROLES[role] for role in part.roles),
            part.peers,
            part.capacity,
            part.slots,
            tuple(part.batch),
        )
        for part in found.fleet
    )
    names = [group.name for group in groups]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{file}: fleet: there are two groups of {min(twice)}: make them one")
    for role, stage in ROLES.items():
        if not any(stage in group.stages for group in groups):
            raise InputError(f"{file}: fleet: no group has the role {role}")
    memory = Memory(found.adapters.room, found.adapters.load_seconds) if found.adapters else Memory()
    shapes = {
        name: Shape(name, part.encode, part.denoise, part.decode, part.steps) for name, part in found.shapes.items()
    }
    return Fleet(groups, shapes, found.transfer_seconds, found.park_seconds, memory)


def _load(file: Path, found: ScenarioFile, fleet: Fleet, requests: Path | None, jobs: int | None) -> Load:
    if requests is not None:
        return trace(requests, speed=found.trace_speed)
    part = found.load
    if part is None:
        raise InputError(f"{file}: load: is missing: state one, or give --trace FILE")
    spread = Spread(
        scale=part.scale,
        steps=part.steps,
        numbers=part.numbers,
        keys=part.keys,
        adapters=tuple(found.adapters.names) if found.adapters else (),
        adapted=found.adapters.share if found.adapters else 0.0,
        classes={PRIORITIES[name]: weight for name, weight in part.classes.items()} if part.classes else None,
        deadline=part.deadline or (0.0, 0.0),
    )
    mixes = [part.mix] if part.mix is not None else []
    mixes += [phase.mix for phase in part.phases or ()]
    for name in (name for mix in mixes for name in mix):
        if name not in fleet.shapes:
            raise InputError(f"{file}: load: {name!r} of a mix is none of the shapes {', '.join(fleet.shapes)}")
    if part.phases is not None:
        return phases([Phase(phase.seconds, phase.rate, phase.mix) for phase in part.phases], spread)
    mix = part.mix or dict.fromkeys(fleet.shapes, 1.0)
    rate = part.rate or (part.load or 0.0) * fleet.capacity(mix, part.steps) / (sum(part.scale) / 2) / _pictures(part)
    number = jobs or part.jobs
    if part.arrivals == "bursts":
        return bursts(rate, part.variation, number, mix, spread)
    return (poisson if part.arrivals == "poisson" else fixed)(rate, number, mix, spread)


def _pictures(part: LoadPart) -> float:
    """Of a request, on average."""
    weights = part.numbers or {1: 1.0}
    return sum(number * weight for number, weight in weights.items()) / sum(weights.values())


def _faults(file: Path, found: ScenarioFile, fleet: Fleet) -> Any:
    names = [f"{group.name}-{number}" for group in fleet.groups for number in range(group.peers)]
    stated = sorted((Fault(part.at, part.kind, part.peer, part.seconds) for part in found.faults or ()), key=_when)
    for fault in stated:
        if fault.kind is not Kind.RESTART and fault.peer not in names:
            known = ", ".join(f"{group.name}-0 …" for group in fleet.groups)
            raise InputError(f"{file}: faults: {fault.peer!r} is no peer of the fleet: they are {known}")
    if stated and found.drawn_faults:
        raise InputError(f"{file}: give faults or drawnFaults, not both")
    if not (stated or found.drawn_faults):
        return None

    def failing(rng: random.Random) -> Iterator[Fault]:
        many = found.drawn_faults
        return iter(stated) if many is None else drawn(many.number, 1 / many.every, names, Policy().lease, rng)

    return failing


def _when(fault: Fault) -> float:
    return fault.at
