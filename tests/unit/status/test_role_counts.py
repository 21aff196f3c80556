"""A StatefulSet's numbers, taken over as they are; what its controller has not said yet is zero."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.status import workloads
from diffusion_operator.status.observed import PodProblem, RoleObserved


def stateful_set(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    labels = {"diffusion-operator.dev/generation": "aaaaaaaaaa"}
    return {
        "metadata": {"name": "digits-denoiser", "generation": 4},
        "spec": {"template": {"metadata": {"labels": labels}}, **spec},
        "status": status or {},
    }


def test_the_counts_are_those_of_the_stateful_set() -> None:
    status = {
        "observedGeneration": 4,
        "replicas": 3,
        "readyReplicas": 2,
        "availableReplicas": 1,
        "updatedReplicas": 1,
        "currentRevision": "digits-denoiser-1",
        "updateRevision": "digits-denoiser-2",
    }
    assert workloads.role(stateful_set(status), 3) == RoleObserved(
        exists=True,
        desired=3,
        replicas=3,
        ready=2,
        available=1,
        updated=1,
        current_revision="digits-denoiser-1",
        update_revision="digits-denoiser-2",
        observed=True,
        generation="aaaaaaaaaa",
    )


def test_a_stateful_set_that_does_not_exist_has_nothing() -> None:
    seen = workloads.role(None, 3)
    assert (seen.exists, seen.observed, seen.desired) == (False, False, 3)
    assert (seen.replicas, seen.ready, seen.available, seen.updated) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("status", "observed"),
    [
        pytest.param({}, False, id="never looked at"),
        pytest.param({"observedGeneration": 3}, False, id="looked at before the latest change"),
        pytest.param({"observedGeneration": 4}, True, id="looked at since"),
    ],
)
def test_counts_speak_of_the_spec_that_the_controller_has_seen(status: dict[str, Any], observed: bool) -> None:
    assert workloads.role(stateful_set(status), 1).observed is observed


@pytest.mark.parametrize(
    ("strategy", "held"),
    [
        pytest.param({}, 0, id="a plain rolling update holds none"),
        pytest.param({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}, 2, id="a partition holds so many"),
        pytest.param({"type": "RollingUpdate", "rollingUpdate": {"partition": 9}}, 3, id="but not more than there are"),
        pytest.param({"type": "OnDelete"}, 3, id="OnDelete holds all"),
    ],
)
def test_pods_that_the_update_strategy_holds_back_are_counted(strategy: dict[str, Any], held: int) -> None:
    assert workloads.role(stateful_set(updateStrategy=strategy), 3).held == held


def test_problems_are_in_the_order_of_their_pods() -> None:
    problems = [PodProblem(pod=f"digits-denoiser-{number}", reason="Evicted", message="") for number in (2, 0, 1)]
    seen = workloads.role(stateful_set(), 3, problems)
    assert [problem.pod[-1] for problem in seen.problems] == ["0", "1", "2"]
