"""Loads that are simulated by name: what was published elsewhere, and what this router's goals are stated on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final

from diffusion_router.core import Policy, Stage
from dpipe.simulate.bound import fewest_requests
from dpipe.simulate.faults import Fault, drawn
from dpipe.simulate.fleet import Fleet, Group, Memory, Shape
from dpipe.simulate.jobs import End
from dpipe.simulate.load import Load, Mix, Phase, Request, Spread, bursts, fixed, phases, poisson
from dpipe.simulate.report import TIMES, Column, Figures, quantile
from dpipe.simulate.scenario import Scenario

ENCODER, DENOISER, DECODER = (frozenset({stage}) for stage in Stage)
# Of a role that is plentiful: it takes no time, and its pool holds whatever waits.
_SLOTS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Case:
    """beside: figures that stand beside those of policies, by whose they are. reference: the like, found of a run's
    requests. extra: further figures of a run. changed: the policy, as it is here."""

    label: str
    scenario: Scenario
    beside: Mapping[str, Figures] = field(default_factory=dict)
    reference: tuple[str, Callable[[Sequence[Request]], Figures]] | None = None
    extra: Callable[[Sequence[End]], Figures] | None = None
    changed: Callable[[Policy], Policy] | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """seeds: how many, unless others are asked for. bounded: beside the policies stands what no order can exceed."""

    title: str
    cases: tuple[Case, ...]
    seeds: int = 1
    columns: tuple[Column, ...] = TIMES
    bounded: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a study may be asked for otherwise; None: as it is."""

    jobs: int | None = None
    faults: int | None = None


def _plentiful(denoisers: Group, shapes: Sequence[Shape]) -> Fleet:
    """Encoders and decoders that are never waited for."""
    beside = [Group(stages, denoisers.peers, slots=_SLOTS) for stages in (ENCODER, DECODER)]
    return Fleet((beside[0], denoisers, beside[1]), {shape.name: shape for shape in shapes})


# ---------------------------------------------------------------- pictures and videos

_MIXED: Final = (Shape("image", 0.0, 2.5, 0.0, 50), Shape("video", 0.0, 60.0, 0.0, 50))
_SPREAD: Final = (0.7, 1.5)


def mixed(wanted: Wanted) -> Study:
    """10 % videos of 60 s among pictures of 2.5 s, each times 0.7 to 1.5, on 8 denoisers."""
    fleet = _plentiful(Group(DENOISER, 8), _MIXED)
    mix = {"image": 0.9, "video": 0.1}
    most = fleet.capacity(mix) / (sum(_SPREAD) / 2)
    jobs = wanted.jobs or 3_000
    cases = [
        Case(f"load {load:.2f}", Scenario("mixed", fleet, poisson(load * most, jobs, mix, Spread(scale=_SPREAD))))
        for load in (0.70, 0.85, 0.95, 1.10)
    ]
    return Study("8 denoisers, pictures and 10 % videos, Poisson; within 3 times its time alone", tuple(cases), seeds=3)


# ---------------------------------------------------------------- super_p95 (vllm-project/vllm-omni#3916)

_SIZES: Final = (
    Shape("512", 0.0, 8.64, 0.0, 20),
    Shape("768", 0.0, 8.64, 0.0, 20),
    Shape("1024", 0.0, 14.22, 0.0, 25),
    Shape("1536", 0.0, 49.34, 0.0, 35),
)
_SUPER_P95: Final = {
    0.2: (49.8, 49.6),
    0.3: (49.8, 49.6),
    0.4: (55.1, 56.8),
    0.5: (141.6, 95.3),
    0.6: (276.9, 181.8),
    0.7: (391.3, 291.5),
    0.8: (461.9, 374.9),
}


def super_p95(wanted: Wanted) -> Study:
    """8 servers of Qwen-Image under four sizes at fixed gaps: a published workload, with the published figures."""
    servers = 8
    fleet = _plentiful(Group(DENOISER, servers), _SIZES)
    mix = {"512": 0.15, "768": 0.25, "1024": 0.45, "1536": 0.15}
    cases = [
        Case(
            f"{rate} jobs/s",
            Scenario("super-p95", fleet, fixed(rate, wanted.jobs or 500, mix, Spread())),
            beside={"published base": {"p95": base}, "published super_p95": {"p95": best}},
            reference=("fewest requests, at arrival", _at_arrival(fleet, servers)),
        )
        for rate, (base, best) in _SUPER_P95.items()
    ]
    return Study("8 servers, four sizes, fixed gaps; within 3 times its time alone", tuple(cases), seeds=12)


def _at_arrival(fleet: Fleet, servers: int) -> Callable[[Sequence[Request]], Figures]:
    def found(requests: Sequence[Request]) -> Figures:
        jobs = [(request.at, request.scale * fleet.shapes[request.shape].solo(request.steps)) for request in requests]
        seconds = sorted(fewest_requests(jobs, servers))
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: quantile(seconds, share) for name, share in shares.items()}

    return found


# ---------------------------------------------------------------- the ratio shift (DisagFusion)

_STAGES: Final = (Shape("4-step", 5.7, 74.5, 9.7, 4), Shape("1-step", 5.7, 18.6, 9.7, 1))
_PHASES: Final = (
    ("4-step", Phase(300, 0.1, {"4-step": 1})),
    ("1:1", Phase(300, 0.4 / 3, {"4-step": 1, "1-step": 1})),
    ("1-step", Phase(300, 0.2, {"1-step": 1})),
)
_RATIOS: Final = {
    "1:6:1": (Group(ENCODER, 1), Group(DENOISER, 6), Group(DECODER, 1)),
    "1:5:2": (Group(ENCODER, 1), Group(DENOISER, 5), Group(DECODER, 2)),
    "3 shared + 5": (Group(ENCODER | DECODER, 3), Group(DENOISER, 5)),
    "monolith x 8": (Group(frozenset(Stage), 8),),
}


def ratio_shift(_: Wanted) -> Study:
    """8 GPUs of Wan2.2 by four ratios of roles, under three phases: a published load."""
    cases = []
    for label, groups in _RATIOS.items():
        fleet = Fleet(groups, {shape.name: shape for shape in _STAGES})
        bounds = {f"{name} bound": fleet.capacity(phase.mix) for name, phase in _PHASES}
        cases.append(
            Case(
                label,
                Scenario("ratio-shift", fleet, phases([phase for _, phase in _PHASES], Spread())),
                extra=lambda ends, bounds=bounds: {**_by_phase(ends), **bounds},  # type: ignore[misc]
            )
        )
    columns = [Column("jobs/s", "per_second", 4)]
    for name, _phase in _PHASES:
        columns += [Column(f"{name}: ended/s", f"{name} ended", 4), Column("bound", f"{name} bound", 4)]
    return Study(
        "encoder, denoiser, decoder: 8 GPUs, three phases", tuple(cases), columns=tuple(columns), bounded=False
    )


def _by_phase(ends: Sequence[End]) -> Figures:
    found = {}
    begin = 0.0
    for name, phase in _PHASES:
        until = begin + phase.seconds
        found[f"{name} ended"] = sum(begin <= end.ended < until for end in ends) / phase.seconds
        begin = until
    return found


# ---------------------------------------------------------------- faults

_FAULTY: Final = (
    Group(ENCODER, 2, slots=16),
    Group(DENOISER, 4, slots=16),
    Group(DECODER, 2, slots=16),
    Group(frozenset(Stage), 1, capacity=2, slots=16, batch=(1.0, 1.4)),
)
_FAULTY_SHAPES: Final = (Shape("short", 0.2, 2.0, 0.3, 8), Shape("long", 0.2, 12.0, 0.8, 40))


def faults(wanted: Wanted) -> Study:
    """Kills, drains, cut streams, slow and failing peers, cancels, restarts of the router: one every four seconds."""
    number = wanted.faults or 2_000
    fleet = Fleet(_FAULTY, {shape.name: shape for shape in _FAULTY_SHAPES}, transfer=0.02, park=0.01)
    rate, every = 0.4, 4.0
    names = [f"{group.name}-{index}" for group in _FAULTY for index in range(group.peers)]

    def failing(rng: random.Random) -> Iterator[Fault]:
        return drawn(number, 1 / every, names, Policy().lease, rng)

    load: Load = _bursts(rate, wanted.jobs or int(number * every * rate), {"short": 0.8, "long": 0.2})
    scenario = Scenario("faults", fleet, load, faults=failing, latency=0.05)
    columns = (
        *TIMES,
        Column("again steps", "again_steps", 0),
        Column("parks", "parks", 0),
        Column("faults", "faults", 0),
        Column("events", "events", 0),
    )
    return Study(
        "faults: kills, drains, cut streams, slow peers, failures, cancels, restarts of the router",
        (Case(f"{number} faults", scenario),),
        columns=columns,
        bounded=False,
    )


def _bursts(rate: float, jobs: int, mix: Mix) -> Load:
    return poisson(rate, jobs, mix, Spread(scale=_SPREAD, numbers={1: 0.8, 3: 0.2}, keys=50))


# ---------------------------------------------------------------- adapters (shares of the trace GenTD26)

_NAMES: Final = tuple(f"adapter-{number}" for number in range(1, 21))
_MEMORY: Final = Memory(room=4, load_seconds=4.4)
_STEADY: Final = Fleet(
    (Group(ENCODER, 1, slots=_SLOTS), Group(DENOISER, 4), Group(DECODER, 1)),
    {"picture": Shape("picture", 0.1, 20.0, 0.5, 20)},
    memory=_MEMORY,
)
# What several pictures of a request take there, beside one.
_TOGETHER: Final = (1.0, 1.2, 1.35, 1.5, 1.5, 1.5, 1.5, 1.5)
_BURSTING: Final = Fleet(
    (Group(ENCODER, 1, slots=_SLOTS), Group(DENOISER, 4, capacity=8, batch=_TOGETHER), Group(DECODER, 1)),
    {"picture": Shape("picture", 0.1, 18.4, 0.5, 30)},
    memory=_MEMORY,
)


def adapters(wanted: Wanted) -> Study:
    """4 denoisers, of whose requests 16 % name one of 20 adapters: at a steady rate, and in bursts with what else the
    trace has of pictures and steps; each as it is, and where nobody is preferred for what is loaded."""
    jobs = wanted.jobs or 2_000
    steady = Spread(scale=(0.7, 1.3), adapters=_NAMES, adapted=0.16)
    bursting = replace(
        steady,
        steps={30: 0.91, 40: 0.05, 25: 0.04},
        numbers={1: 0.58, 2: 0.08, 4: 0.19, 8: 0.15},
    )
    # Of what the denoisers could do one by one.
    loads = [
        (f"load {load:.1f}", _STEADY, poisson(load * 4 / 20.0, jobs, {"picture": 1}, steady))
        for load in (0.3, 0.5, 0.7, 0.9)
    ]
    loads.append(("in bursts", _BURSTING, bursts(0.5 * 4 / 20.0, 12.0, jobs, {"picture": 1}, bursting)))
    cases = []
    for label, fleet, load in loads:
        scenario = Scenario("adapters", fleet, load, adapters=frozenset(_NAMES))
        cases += [
            Case(label, scenario, extra=_of_adapted),
            Case(
                f"{label}, whose turn", scenario, extra=_of_adapted, changed=lambda policy: replace(policy, compared=1)
            ),
        ]
    columns = (
        *TIMES,
        Column("loads a request", "loads_each", 2),
        Column("theirs: mean s", "adapted_mean"),
        Column("p95 s", "adapted_p95"),
    )
    title = "4 denoisers, 16 % of requests name one of 20 adapters; within 3 times its time alone"
    return Study(title, tuple(cases), seeds=3, columns=columns, bounded=False)


def _of_adapted(ends: Sequence[End]) -> Figures:
    seconds = sorted(end.seconds for end in ends if end.adapted)
    return {"adapted_mean": fmean(seconds) if seconds else math.nan, "adapted_p95": quantile(seconds, 0.95)}


STUDIES: Final[Mapping[str, Callable[[Wanted], Study]]] = {
    "mixed": mixed,
    "super-p95": super_p95,
    "ratio-shift": ratio_shift,
    "adapters": adapters,
    "faults": faults,
}
