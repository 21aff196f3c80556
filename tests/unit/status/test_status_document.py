"""The status as a document: its counts, its words for `kubectl get`, and that the definition allows all of it."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import Role, crd
from diffusion_operator.api.schema import schema_errors, unknown_fields
from diffusion_operator.status import invalid, summarise
from diffusion_operator.status.finding import conditions_by_type
from diffusion_operator.status.observed import Observed
from unit.status.seen import (
    ALL_COLOCATED,
    LATER,
    NO_HCA,
    NOW,
    OLD,
    RDMA_OR_NOTHING,
    SUSPENDED,
    UNREACHABLE,
    Case,
    answer,
    at_zero,
    fault,
    observed,
    one_of_each,
    peer,
    pipeline,
    problem,
    role,
    unready,
)
from unit.status.test_conditions import CASES


def status(seen: Observed, spec: str = "", previous: dict[str, Any] | None = None) -> dict[str, Any]:
    return summarise(pipeline(spec), seen, previous, NOW)


def definition_faults(document: dict[str, Any]) -> list[str]:
    schema = crd.schema()["properties"]["status"]
    return [str(error) for error in (*schema_errors(document, schema), *unknown_fields(document, schema))]


@pytest.mark.parametrize("given", CASES)
def test_the_definition_allows_every_status_there_is(given: Case) -> None:
    assert definition_faults(summarise(pipeline(given.spec), given.seen, given.previous, given.now)) == []


def test_counts_are_those_of_the_stateful_set() -> None:
    seen = role(
        5, replicas=4, ready=3, available=2, updated=1, current_revision="r1", update_revision="r2", generation=""
    )
    assert status(observed(router=seen))["roles"]["router"] == {
        "desiredReplicas": 5,
        "replicas": 4,
        "readyReplicas": 3,
        "availableReplicas": 2,
        "updatedReplicas": 1,
        "currentRevision": "r1",
        "updateRevision": "r2",
        "selector": "diffusion-operator.dev/pipeline=digits,diffusion-operator.dev/role=router",
        "message": "1 pod not created yet and 1 pod starting",
    }


def test_counts_are_there_before_anything_is() -> None:
    found = status(Observed(generation=1, roles={}))
    for each in Role:
        counts = found["roles"][each.value]
        assert [counts[name] for name in ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas")] == [
            0
        ] * 4
        assert counts["message"] == "its StatefulSet does not exist yet"
    assert found["phase"] == "Pending"


def test_kubectl_get_has_ready_of_desired() -> None:
    assert status(observed(denoiser=unready(3, 2)))["summary"] == {
        "encoder": "1/1",
        "denoiser": "2/3",
        "decoder": "1/1",
        "router": "1/1",
    }


def test_a_role_that_is_done_has_no_message() -> None:
    found = status(observed(denoiser=unready(2, 1, NO_HCA)))["roles"]
    assert "message" not in found["encoder"]
    assert found["denoiser"]["message"] == "1 pod Unschedulable: 0/5 nodes are available: 5 Insufficient rdma/hca"


def test_a_message_tells_the_worst_and_how_many_have_others() -> None:
    problems = (
        problem("Unschedulable", "no room", pod="digits-denoiser-0"),
        problem("CrashLoopBackOff", "boom 2", pod="digits-denoiser-2"),
        problem("CrashLoopBackOff", "boom 1", pod="digits-denoiser-1"),
    )
    found = status(observed(denoiser=unready(3, 0, *problems)))["roles"]["denoiser"]
    assert found["message"] == ("2 pods CrashLoopBackOff (first digits-denoiser-1): boom 1; 1 pod with other problems")


def test_a_message_is_cut_to_what_the_definition_allows() -> None:
    found = status(observed(denoiser=unready(1, 0, problem("ModelFailed", "x" * 2000))))
    assert len(found["roles"]["denoiser"]["message"]) == 1024
    assert definition_faults(found) == []


def test_a_colocated_role_has_the_pods_of_the_denoiser() -> None:
    together = peer(Role.DENOISER, roles=(Role.ENCODER, Role.DENOISER, Role.DECODER), mode="tcp")
    found = status(observed(denoiser=unready(3, 1), peers=answer([together])), ALL_COLOCATED)
    assert found["roles"]["encoder"] == found["roles"]["decoder"] == found["roles"]["denoiser"]
    assert found["roles"]["encoder"]["selector"].endswith("role=denoiser")
    assert found["summary"]["encoder"] == "1/3"
    assert found["router"]["expectedPeers"] == 1


@pytest.mark.parametrize(
    ("modes", "transport"),
    [
        pytest.param(["mooncake-rdma", "mooncake-rdma"], "rdma", id="all use rdma"),
        pytest.param(["mooncake-tcp", "tcp"], "tcp", id="whichever way tcp is used"),
        pytest.param(["shm"], "shm", id="shared memory"),
        pytest.param(["mooncake-rdma", "mooncake-tcp"], "mixed", id="they differ"),
        pytest.param([""], "unknown", id="not told yet"),
        pytest.param([], "unknown", id="nobody there"),
    ],
)
def test_the_transport_is_the_one_that_peers_report(modes: list[str], transport: str) -> None:
    peers = [peer(Role.DENOISER, number, mode=mode) for number, mode in enumerate(modes)]
    assert status(observed(peers=answer(peers)))["roles"]["denoiser"]["transport"] == transport


def test_the_transport_is_unknown_while_the_router_is_silent() -> None:
    assert status(observed(peers=UNREACHABLE))["roles"]["denoiser"]["transport"] == "unknown"


def test_the_router_has_an_endpoint_and_counts_the_peers_of_the_generation() -> None:
    peers = answer([*one_of_each(), peer(Role.DENOISER, 1, generation=OLD), peer(Role.DENOISER, 2, state="suspect")])
    found = status(observed(denoiser=role(3), peers=peers), "router: {httpPort: 8123}")
    assert found["router"] == {
        "endpoint": "http://digits-router-api.ai.svc:8123",
        "readyPeers": 3,
        "expectedPeers": 5,
    }
    assert found["generationId"] == "aaaaaaaaaa"


@pytest.mark.parametrize(
    ("seen", "spec", "phase"),
    [
        pytest.param(observed(), "", "Ready", id="all is there"),
        pytest.param(at_zero(), SUSPENDED, "Suspended", id="suspended"),
        pytest.param(
            observed(encoder=unready(1, 0), denoiser=unready(1, 0), decoder=unready(1, 0), router=unready(1, 0)),
            "",
            "Pending",
            id="nothing is ready yet",
        ),
        pytest.param(observed(denoiser=unready(1, 0)), "", "Progressing", id="some are ready"),
        pytest.param(observed(denoiser=unready(3, 1)), "", "Progressing", id="it serves and grows"),
        pytest.param(observed(denoiser=role(0)), "", "Degraded", id="a role at zero"),
        pytest.param(
            observed(fault=fault("ApplyFailed")), "", "Degraded", id="it serves, but a change was not applied"
        ),
        pytest.param(observed(), RDMA_OR_NOTHING, "Degraded", id="it serves, by a transport that is forbidden"),
        pytest.param(observed(denoiser=unready(1, 0), fault=fault("Forbidden")), "", "Failed", id="it can't be made"),
        pytest.param(
            observed(denoiser=unready(1, 0, problem("ModelFailed"))), "", "Failed", id="the model can't be loaded"
        ),
    ],
)
def test_the_phase_is_a_word_for_people(seen: Observed, spec: str, phase: str) -> None:
    assert status(seen, spec)["phase"] == phase


def test_a_pod_that_is_lost_degrades_what_was_ready() -> None:
    crashed = observed(denoiser=unready(2, 1, problem("CrashLoopBackOff")))
    assert status(crashed, previous=status(observed(denoiser=role(2))))["phase"] == "Degraded"


def resource(previous: dict[str, Any] | None) -> dict[str, Any]:
    return {"metadata": {"name": "digits", "generation": 8}, **({"status": previous} if previous else {})}


def test_a_resource_that_can_not_be_understood_keeps_what_is_said_of_its_children() -> None:
    previous = status(observed())
    found = invalid(resource(previous), "spec.model: lacks the required field id\nspec.x: unknown field", LATER)
    assert (found["observedGeneration"], found["phase"]) == (8, "Failed")
    assert found["roles"] == previous["roles"]
    told = conditions_by_type(found)
    for kind in ("Ready", "Reconciled"):
        assert (told[kind]["status"], told[kind]["reason"]) == ("False", "InvalidSpec")
        assert told[kind]["message"] == "spec.model: lacks the required field id; spec.x: unknown field"
        assert told[kind]["lastTransitionTime"] == "2026-11-02T10:05:00Z"
    assert told["RouterReady"] == conditions_by_type(previous)["RouterReady"]
    assert definition_faults(found) == []
    assert invalid(resource(found), "spec.model: lacks the required field id\nspec.x: unknown field", NOW) == found


def test_a_resource_that_never_was_understood_has_a_status_too() -> None:
    found = invalid(resource(None), "spec.model: lacks the required field id", NOW)
    assert list(conditions_by_type(found)) == ["Ready", "Reconciled", "Reconciling", "Stalled"]
    assert definition_faults(found) == []


def test_of_a_resource_that_never_was_understood_nothing_says_that_no_operator_saw_it() -> None:
    defaults = crd.schema()["properties"]["status"]["default"]
    found = invalid(resource(defaults), "spec.model: lacks the required field id", NOW)
    told = conditions_by_type(found)
    assert {one["observedGeneration"] for one in told.values()} == {8}
    assert {one["reason"] for one in told.values()} == {"InvalidSpec"}
    assert (told["Available"]["status"], told["Stalled"]["status"]) == ("Unknown", "True")
    assert definition_faults(found) == []
