"""The simulator refuses whom the router would, and says how good its predictions were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from diffusion_router.core import FailureKind, JobStatus, Priority
from dpipe.app import app
from dpipe.simulate.fleet import Fleet, Group, Shape
from dpipe.simulate.load import Load, Spread, fixed, poisson
from dpipe.simulate.policies import named
from dpipe.simulate.report import figures
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Outcome, Scenario
from dpipe.simulate.studies import DECODER, DENOISER, ENCODER

FLEET = Fleet((Group(ENCODER, 1), Group(DENOISER, 2), Group(DECODER, 1)), {"one": Shape("one", 0.1, 4.0, 0.5, 10)})
# Requests a second that the denoisers can do.
CAPACITY = 0.5


def play(load: Load, **terms: Any) -> Outcome:
    policy = named("Fifo")
    return Simulation(Scenario("s", FLEET, load, **terms), policy.make(), 1, passes=policy.passes).run()


def test_at_twice_the_capacity_what_is_too_much_is_refused_and_what_is_accepted_ends_in_time() -> None:
    outcome = play(poisson(2 * CAPACITY, 600, {"one": 1}, Spread(scale=(0.8, 1.2), deadline=(30.0, 90.0))))
    refused = outcome.refused.total()
    assert refused + len(outcome.ends) == 600
    # Of 600 seconds' requests the denoisers do so many, and as many more as wait a minute.
    assert refused == pytest.approx(600 - CAPACITY * (600 + 60), rel=0.1)
    statuses = Counter(end.status for end in outcome.ends)
    assert statuses[JobStatus.COMPLETED] >= 0.95 * len(outcome.ends)
    assert figures(outcome)["in_time"] == sum(end.in_time for end in outcome.ends) / 600
    late = [end for end in outcome.ends if end.status is not JobStatus.COMPLETED]
    assert all(end.kind is FailureKind.DEADLINE for end in late)


def test_who_has_no_deadline_is_not_refused() -> None:
    outcome = play(fixed(2 * CAPACITY, 100, {"one": 1}, Spread()))
    assert (len(outcome.ends), outcome.refused.total()) == (100, 0)


def test_a_full_queue_refuses_all_pictures_of_a_request() -> None:
    outcome = play(fixed(2 * CAPACITY, 60, {"one": 1}, Spread(numbers={4: 1.0})), max_queued=10)
    assert outcome.refused.total() % 4 == 0
    assert outcome.refused.total() + len(outcome.ends) == 240
    # Beside those that wait each of the four peers has what it computes and one more.
    arrivals, ends = (sorted(getattr(end, name) for end in outcome.ends) for name in ("arrived", "ended"))
    assert max(sum(at <= now for at in arrivals) - sum(at < now for at in ends) for now in arrivals) <= 10 + 4 * 2


def test_the_refused_are_told_by_class(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    load = {"load": 2, "jobs": 300, "deadline": [20, 30], "classes": {"interactive": 1, "batch": 3}}
    shapes = {"one": {"encode": 0.1, "denoise": 4, "decode": 0.5, "steps": 10}}
    fleet = [{"roles": [role], "peers": 1} for role in ("encoder", "denoiser", "decoder")]
    file.write_text(yaml.safe_dump({"shapes": shapes, "fleet": fleet, "load": load, "maxQueued": 50}))
    told = CliRunner().invoke(app, ["simulate", "--scenario", str(file), "--policy", "Fifo", "--no-bound", "--json"])
    assert told.exit_code == 0, told.output
    (row,) = json.loads(told.output)
    classes = row["classes"]
    assert list(classes) == ["interactive", "batch"]
    assert sum(of_class["jobs"] + of_class["refused"] for of_class in classes.values()) == 300
    assert row["figures"]["refused"] == sum(of_class["refused"] for of_class in classes.values()) > 100
    assert row["shapes"]["one"]["refused"] == row["figures"]["refused"]
    assert classes["batch"]["jobs"] > classes["interactive"]["jobs"]
    table = CliRunner().invoke(app, ["simulate", "--scenario", str(file)]).output
    assert table.count("refused") == 3


def test_a_class_that_was_refused_altogether_is_told() -> None:
    outcome = play(fixed(1.0, 40, {"one": 1}, Spread(deadline=(0.2, 0.2))))
    # Nothing is known before one has ended, or failed.
    assert outcome.refused["one", Priority.STANDARD] >= 30


def test_with_steady_stages_fifo_takes_as_long_as_predicted() -> None:
    outcome = play(fixed(1.2 * CAPACITY, 200, {"one": 1}, Spread()))
    found = figures(outcome)
    assert found["predicted_p50"] == pytest.approx(1.0, abs=0.1)
    assert found["predicted_p95"] == pytest.approx(1.0, abs=0.2)
