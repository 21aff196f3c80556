"""What is observed, and what each condition says of it: a case for every reason that a condition may have."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest

from diffusion_operator.status import reasons, summarise
from diffusion_operator.status.observed import Fault, FaultReason, Observed, RefusalReason
from unit.status import kstatus_cases, peer_cases, pod_cases, progress_cases, ready_cases, upgrade_cases
from unit.status.seen import (
    LATER,
    NOW,
    SUSPENDED,
    Case,
    at_zero,
    before,
    conditions,
    observed,
    pipeline,
    problem,
    refused,
    role,
    unready,
)

CASES = [
    *ready_cases.CASES,
    *progress_cases.CASES,
    *peer_cases.CASES,
    *pod_cases.CASES,
    *kstatus_cases.CASES,
    *upgrade_cases.CASES,
]


@pytest.mark.parametrize("given", CASES)
def test_a_condition_says_what_was_observed(given: Case) -> None:
    found = conditions(pipeline(given.spec), given.seen, given.previous, given.now)[given.type]
    assert (found["status"], found["reason"]) == (given.status, given.reason)
    assert given.message in found["message"]


def test_the_cases_are_all_the_reasons_that_there_are() -> None:
    reached = {(param.values[0].type, param.values[0].reason) for param in CASES}
    wanted = {(kind, reason) for kind, known in reasons.CONDITIONS.items() for reason in known if kind != reasons.BOUND}
    assert reached == wanted


def test_reasons_are_what_the_observed_values_may_carry() -> None:
    assert set(reasons.FAULTS) == set(get_args(FaultReason))
    assert set(reasons.REFUSALS) == set(get_args(RefusalReason))


def test_every_condition_is_always_there_in_one_order() -> None:
    wanted = [kind for kind in reasons.CONDITIONS if kind != reasons.BOUND]
    for seen, spec in ((observed(), ""), (at_zero(), SUSPENDED), (Observed(generation=1, roles={}), "")):
        assert list(conditions(pipeline(spec), seen)) == wanted


def test_each_says_of_which_generation_it_speaks() -> None:
    assert {found["observedGeneration"] for found in conditions(pipeline(), observed(generation=9)).values()} == {9}


def test_events_of_refusals_that_outlive_their_cause_are_not_believed() -> None:
    whole = role(2, refusals=refused("QuotaExceeded", "exceeded quota: gpus").refusals)
    assert conditions(pipeline(), observed(denoiser=whole))["Schedulable"]["status"] == "True"


def test_a_problem_of_a_pod_that_is_not_needed_is_not_told() -> None:
    """A pod that is one too many, and crashes on its way out, keeps nobody from being ready."""
    leaving = role(1, replicas=2, problems=(problem("ModelFailed", pod="digits-denoiser-1"),))
    found = conditions(pipeline(), observed(denoiser=leaving))
    assert (found["Ready"]["status"], found["ModelReady"]["status"]) == ("True", "True")


def test_a_pod_that_fails_later_is_no_rollout() -> None:
    previous = before(observed())
    crashed = observed(denoiser=unready(1, 0, problem("CrashLoopBackOff")))
    found = conditions(pipeline(), crashed, previous, LATER)
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("False", "Complete")
    assert found["Ready"]["status"] == "False"


def test_a_rollout_that_is_late_has_all_its_time_again_once_it_moves() -> None:
    late = NOW + timedelta(seconds=1801)
    stuck = observed(denoiser=unready(3, 1))
    overdue = summarise(pipeline(), stuck, before(stuck), late)
    assert conditions(pipeline(), stuck, overdue, late + timedelta(hours=1))["Progressing"]["status"] == "False"
    moved = conditions(pipeline(), observed(denoiser=unready(3, 2)), overdue, late)["Progressing"]
    assert (moved["status"], moved["reason"]) == ("True", "Starting")


def test_pods_of_a_rollout_have_their_time_one_after_another() -> None:
    previous = before(progress_cases.ROLLING_OUT)
    for seconds, status in ((3 * 1800, "True"), (3 * 1800 + 1, "False")):
        now = NOW + timedelta(seconds=seconds)
        assert conditions(pipeline(), progress_cases.ROLLING_OUT, previous, now)["Progressing"]["status"] == status


def test_messages_are_cut_to_what_the_definition_allows() -> None:
    long = Fault(reason="ApplyFailed", message="x" * 5000)
    assert len(conditions(pipeline(), observed(fault=long))["Reconciled"]["message"]) == 1024
