"""The core under drawn faults, with every check on: the short form of `dpipe simulate faults --faults 1000000`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from diffusion_router.core import JobStatus, Stage
from dpipe.simulate.faults import WEIGHTS, Kind
from dpipe.simulate.policies import POLICIES, named
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Outcome
from dpipe.simulate.studies import STUDIES, Wanted

FAULTS = 500


def play(policy: str, seed: int, number: int = FAULTS) -> Outcome:
    chosen = named(policy)
    scenario = STUDIES["faults"](Wanted(faults=number)).cases[0].scenario
    return Simulation(scenario, chosen.make(), seed, passes=chosen.passes).run()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("policy", POLICIES)
def test_under_drawn_faults_every_job_ends_once_and_everything_comes_back(policy: str, seed: int) -> None:
    outcome = play(policy, seed)
    assert sum(outcome.faults.values()) == FAULTS
    assert set(outcome.faults) == set(WEIGHTS) == set(Kind)
    ended = {status: sum(end.status is status for end in outcome.ends) for status in JobStatus}
    assert ended[JobStatus.COMPLETED] > 0.8 * len(outcome.ends)
    assert ended[JobStatus.QUEUED] == ended[JobStatus.IN_PROGRESS] == 0
    assert outcome.computed[Stage.DECODE] >= ended[JobStatus.COMPLETED]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_plays_the_same_in_every_process(policy: str) -> None:
    """Whatever the order is in which that one's sets are."""
    code = (
        f"from unit.simulate.test_faults import play; out = play({policy!r}, 1, 100);"
        "print(out.events, sum(end.ended for end in out.ends))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "tests"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
