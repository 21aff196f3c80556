"""What the simulator says of the router's core is what is published or computed without it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from diffusion_router.core import Policy, Stage
from dpipe.simulate.bound import first_free, most_done
from dpipe.simulate.fleet import Fleet, Group, Shape
from dpipe.simulate.load import Spread, bursts, fixed, poisson
from dpipe.simulate.policies import named
from dpipe.simulate.report import figures, quantile
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Outcome, Scenario
from dpipe.simulate.studies import DECODER, DENOISER, ENCODER, STUDIES, Wanted

FIFO = named("Fifo")


def play(scenario: Scenario, seed: int = 0, policy: Policy | None = None) -> Outcome:
    return Simulation(scenario, policy or FIFO.make(), seed, passes=FIFO.passes).run()


def fleet(*groups: Group, **seconds: float) -> Fleet:
    shapes = {name: Shape(name, 0.0, each, 0.0, 10) for name, each in seconds.items()}
    return Fleet(groups, shapes)


def plentiful(denoisers: Group, **seconds: float) -> Fleet:
    return fleet(Group(ENCODER, 8, slots=65_536), denoisers, Group(DECODER, 8), **seconds)


def test_fifo_without_prefetch_is_a_list_schedule_to_the_last_job() -> None:
    made = plentiful(Group(DENOISER, 3), short=2.0, long=17.0)
    load = poisson(0.5, 300, {"short": 0.8, "long": 0.2}, Spread(scale=(0.7, 1.5)))
    requests = list(load(random.Random("4 load")))
    expected = first_free([(each.at, each.scale * made.shapes[each.shape].denoise) for each in requests], 3)
    outcome = play(Scenario("s", made, load), 4, Policy(prefetch=0))
    assert sorted(end.seconds for end in outcome.ends) == pytest.approx(sorted(expected), abs=1e-6)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_published_baseline_is_met_where_its_rule_is_played(rate: float) -> None:
    """Which gives each request at its arrival to the server with the fewest."""
    case = next(case for case in STUDIES["super-p95"](Wanted()).cases if case.label == f"{rate} jobs/s")
    assert case.reference is not None
    found = [case.reference[1](list(case.scenario.load(random.Random(seed))))["p95"] for seed in range(12)]
    assert sum(found) / len(found) == pytest.approx(case.beside["published base"]["p95"], rel=0.15)


@pytest.mark.parametrize(("rate", "seconds"), [("0.2", 49.8), ("0.8", 461.9)])
def test_fifo_comes_near_the_published_baseline(rate: str, seconds: float) -> None:
    case = next(case for case in STUDIES["super-p95"](Wanted()).cases if case.label == f"{rate} jobs/s")
    ends = play(case.scenario).ends
    assert quantile(sorted(end.seconds for end in ends), 0.95) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(
    ("ratio", "per_second"), [("1:6:1", 0.092), ("1:5:2", 0.1125), ("3 shared + 5", 0.1195), ("monolith x 8", 0.136)]
)
def test_ratios_of_roles_do_what_was_found_before(ratio: str, per_second: float) -> None:
    case = next(case for case in STUDIES["ratio-shift"](Wanted()).cases if case.label == ratio)
    assert figures(play(case.scenario))["per_second"] == pytest.approx(per_second, rel=0.02)


def test_the_bound_of_a_ratio_is_that_of_its_narrowest_set_of_roles() -> None:
    cases = STUDIES["ratio-shift"](Wanted()).cases
    found = {case.label: case.extra([])["4-step bound"] for case in cases if case.extra}
    assert found == pytest.approx(
        {"1:6:1": 6 / 74.5, "1:5:2": 5 / 74.5, "3 shared + 5": 5 / 74.5, "monolith x 8": 8 / 89.9}
    )


def test_the_same_seed_plays_the_same() -> None:
    scenario = STUDIES["mixed"](Wanted(jobs=60)).cases[1].scenario
    assert play(scenario, 3) == play(scenario, 3)
    assert play(scenario, 3) != play(scenario, 4)


def test_a_batch_takes_what_the_curve_says() -> None:
    """Four that come at once, on one peer with two places: two pairs, each at 1.2 times one alone."""
    made = plentiful(Group(DENOISER, 1, capacity=2, batch=(1.0, 1.2)), one=10.0)
    outcome = play(Scenario("s", made, fixed(1e6, 4, {"one": 1}, Spread())))
    assert sorted(end.ended for end in outcome.ends) == pytest.approx([12.0, 12.0, 24.0, 24.0], abs=1e-3)


def test_without_a_curve_two_at_once_take_twice_as_long() -> None:
    made = plentiful(Group(DENOISER, 1, capacity=2), one=10.0)
    outcome = play(Scenario("s", made, fixed(1e6, 2, {"one": 1}, Spread())))
    assert [end.ended for end in outcome.ends] == pytest.approx([20.0, 20.0], abs=1e-3)


def test_transfers_and_loads_of_adapters_take_their_time() -> None:
    from dpipe.simulate.fleet import Memory

    made = replace(plentiful(Group(DENOISER, 1), one=10.0), transfer=0.25, memory=Memory(room=1, load_seconds=3.0))
    load = fixed(0.01, 2, {"one": 1}, Spread(adapters=("style",), adapted=1.0))
    outcome = play(Scenario("s", made, load, adapters=frozenset({"style"})))
    # Of both transfers, and for the first of the load.
    assert [end.seconds for end in outcome.ends] == pytest.approx([13.5, 10.5], abs=1e-6)
    assert (outcome.loads, outcome.adapted) == (1, 2)


def test_pictures_of_one_request_are_encoded_once() -> None:
    made = Fleet((Group(ENCODER, 1), Group(DENOISER, 2), Group(DECODER, 1)), {"one": Shape("one", 1.0, 5.0, 0.5, 10)})
    outcome = play(Scenario("s", made, fixed(0.001, 3, {"one": 1}, Spread(numbers={4: 1}))))
    assert (outcome.computed[Stage.ENCODE], outcome.keys, len(outcome.ends)) == (3, 3, 12)


def test_no_order_does_more_than_the_bound() -> None:
    """Three jobs of 4 s within 8 s on a machine of speed 1: two. All of them on one of speed 1.5."""
    windows = [(0.0, 8.0, 4.0)] * 3
    assert most_done(windows, 1.0) == pytest.approx(2.0)
    assert most_done(windows, 1.5) == pytest.approx(3.0)
    requests = random.Random(1)
    many = [
        (at, at + 3 * work, work) for at, work in ((requests.uniform(0, 90), requests.uniform(1, 9)) for _ in range(60))
    ]
    seconds = first_free(sorted((at, work) for at, _, work in many), 2)
    in_time = sum(taken <= 3 * work for taken, (_, _, work) in zip(seconds, sorted(many), strict=True))
    assert in_time <= most_done(many, 2.0) <= 60


def test_bursts_come_at_the_stated_rate_and_vary_as_stated() -> None:
    made = bursts(2.0, 5.0, 40_000, {"one": 1}, Spread(steps={30: 3, 40: 1}))
    requests = list(made(random.Random(3)))
    gaps = [after.at - before.at for before, after in pairwise(requests)]
    assert fmean(gaps) == pytest.approx(0.5, rel=0.1)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(5.0, rel=0.1)
    assert sum(request.steps == 40 for request in requests) == pytest.approx(10_000, rel=0.05)


def test_what_a_fleet_can_do_counts_the_steps_that_are_asked_for() -> None:
    made = plentiful(Group(DENOISER, 2), one=5.0)
    assert made.capacity({"one": 1}) == pytest.approx(0.4)
    assert made.capacity({"one": 1}, {10: 1, 30: 1}) == pytest.approx(0.2)


def test_where_jobs_go_to_what_is_loaded_less_is_loaded() -> None:
    cases = {case.label: case for case in STUDIES["adapters"](Wanted(jobs=600)).cases}
    loads = []
    for label in ("load 0.3", "load 0.3, whose turn"):
        changed = cases[label].changed or (lambda policy: policy)
        loads.append(play(cases[label].scenario, 0, changed(FIFO.make())).loads)
    assert loads[0] < 0.8 * loads[1]
