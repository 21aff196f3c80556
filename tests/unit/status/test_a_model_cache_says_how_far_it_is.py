"""The status of a ModelCache, from its DaemonSets and their pods."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from diffusion_operator.api import Role
from diffusion_operator.status import reasons
from diffusion_operator.status.modelcache import Share, cache_status, share
from diffusion_operator.status.observed import Fault, PodProblem, Refusal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESOURCE = {"metadata": {"generation": 3}}


def daemon_set(nodes: int, *, made: int, updated: int, ready: int, seen: int = 2) -> dict[str, Any]:
    status = {
        "observedGeneration": seen,
        "desiredNumberScheduled": nodes,
        "currentNumberScheduled": made,
        "updatedNumberScheduled": updated,
        "numberReady": ready,
    }
    return {"metadata": {"generation": 2}, "status": status}


def problem(reason: str, pod: str = "sd3-denoiser-x") -> PodProblem:
    return PodProblem(pod=pod, reason=reason, message=f"because of {reason}")


def there(nodes: int = 2, ready: int = 2, *problems: PodProblem, **more: Any) -> Share:
    return Share(**{"observed": True, "nodes": nodes, "ready": ready, "problems": problems, **more})


def conditions(*faults: Fault, **shares: Share) -> dict[str, tuple[str, str, str]]:
    status = cache_status(RESOURCE, "/x", {Role(name): one for name, one in shares.items()}, faults, NOW)
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in status["conditions"]}


def test_pods_of_an_earlier_revision_count_for_nothing() -> None:
    assert share(daemon_set(5, made=5, updated=2, ready=5), (), None).ready == 2
    assert share(daemon_set(5, made=5, updated=5, ready=3), (), None).ready == 3
    assert not share(daemon_set(5, made=5, updated=5, ready=5, seen=1), (), None).observed


def test_what_was_refused_once_is_no_matter_when_all_pods_are_there() -> None:
    refused = Refusal(reason="QuotaExceeded", message="exceeded quota")
    assert share(daemon_set(2, made=2, updated=2, ready=2), (), refused).refusal is None
    assert share(daemon_set(2, made=1, updated=1, ready=1), (), refused).refusal == refused


def test_it_is_ready_when_all_roles_nodes_have_it() -> None:
    found = conditions(encoder=there(1, 1), denoiser=there(2, 2))
    assert found["Ready"] == ("True", "Pulled", "encoder on 1 node, denoiser on 2 nodes")
    assert found["Reconciling"][:2] == ("False", "Pulled")
    assert found["Stalled"][:2] == ("False", "NoFault")


def test_on_the_way_it_says_where_it_is() -> None:
    found = conditions(encoder=there(1, 1), denoiser=there(4, 1), decoder=there(4, 0))
    assert found["Ready"] == ("False", "Pulling", "denoiser on 1 of 4 nodes, decoder on 0 of 4 nodes")
    assert found["Reconciling"][:2] == ("True", "Pulling")
    assert conditions(encoder=there(0, 0, observed=False))["Ready"][:2] == ("False", "Pulling")


@pytest.mark.parametrize("reason", reasons.CACHE_FAULTS)
def test_each_fault_is_told_and_called_stalled_unless_it_passes(reason: str) -> None:
    if reason in reasons.FAULTS:
        found = conditions(Fault(reason=reason, message="why"), denoiser=there())  # type: ignore[arg-type]
    elif reason in reasons.REFUSALS:
        refused = Refusal(reason=reason, message="why")  # type: ignore[arg-type]
        found = conditions(denoiser=there(2, 0, refusal=refused))
    elif reason == reasons.NO_NODES:
        found = conditions(denoiser=there(0, 0))
    else:
        found = conditions(denoiser=there(2, 1, problem(reason)))
    passes = reason in reasons.CACHE_PASSING
    assert found["Ready"][:2] == ("False", reason)
    assert found["Stalled"][0] == ("False" if passes else "True")
    assert found["Reconciling"][0] == ("True" if passes else "False")


def test_of_several_troubles_the_one_is_told_that_will_not_mend_by_itself() -> None:
    found = conditions(
        encoder=there(2, 1, problem("NodeNotReady", "a")), denoiser=there(2, 1, problem("DownloadFailed", "b"))
    )
    assert found["Ready"] == ("False", "DownloadFailed", "denoiser: b: because of DownloadFailed")


def test_each_role_has_its_numbers_and_what_keeps_its_nodes_from_it() -> None:
    status = cache_status(RESOURCE, "/x", {Role.DENOISER: there(2, 1, problem("NoSpace"))}, (), NOW)
    assert status["path"] == "/x"
    assert status["observedGeneration"] == 3
    assert status["roles"] == {
        "denoiser": {
            "nodes": 2,
            "readyNodes": 1,
            "summary": "1/2",
            "message": "sd3-denoiser-x: because of NoSpace",
        }
    }
