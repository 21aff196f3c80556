"""The status of a role scaler is what an autoscaler divides by: pods that are there, and a selector of just these."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from diffusion_operator.api import Role, crd
from diffusion_operator.api.schema import schema_errors, unknown_fields
from diffusion_operator.status import scaler_status
from diffusion_operator.status.observed import RoleObserved
from unit.status.seen import LATER, NOW, pipeline, role

EXTERNAL = "roles: {denoiser: {scaling: {mode: External}}}"


def status(
    seen: RoleObserved, previous: dict[str, Any] | None = None, now: datetime = NOW, spec: str = EXTERNAL
) -> dict[str, Any]:
    scaler = {"metadata": {"name": "digits-denoiser", "generation": 3}, "spec": {"replicas": 2}}
    if previous is not None:
        scaler["status"] = previous
    return scaler_status(pipeline(spec), Role.DENOISER, seen, scaler, now)


def test_it_says_how_many_pods_there_are_and_how_to_find_them() -> None:
    assert status(role(3, replicas=2, ready=1)) == {
        "observedGeneration": 3,
        "replicas": 2,
        "selector": "diffusion-operator.dev/pipeline=digits,diffusion-operator.dev/role=denoiser",
        "conditions": [
            {
                "type": "Bound",
                "status": "True",
                "reason": "Followed",
                "message": "denoiser of DiffusionPipeline digits has the replicas that are set here",
                "observedGeneration": 3,
                "lastTransitionTime": "2026-11-02T10:00:00Z",
            }
        ],
    }


def test_an_unchanged_role_changes_nothing() -> None:
    once = status(role(2))
    assert status(role(2), once, LATER) == once


def test_the_time_of_scaling_moves_with_the_replicas_alone() -> None:
    grown = status(role(3), status(role(2)), LATER)
    assert grown["lastScaleTime"] == "2026-11-02T10:05:00Z"
    assert status(role(3, ready=0), grown, NOW)["lastScaleTime"] == "2026-11-02T10:05:00Z"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param(f"{EXTERNAL}\nsuspend: true", "Suspended", id="the pipeline is suspended"),
        pytest.param("", "NotExternal", id="the role is scaled by the pipeline again"),
    ],
)
def test_a_scaler_that_decides_nothing_says_so(spec: str, reason: str) -> None:
    bound = status(role(2), spec=spec)["conditions"][0]
    assert (bound["status"], bound["reason"]) == ("False", reason)


def test_the_definition_allows_it() -> None:
    document = status(role(3), status(role(2)), LATER)
    schema = crd.schema(crd.SCALER_PLURAL)["properties"]["status"]
    assert [*schema_errors(document, schema), *unknown_fields(document, schema)] == []
