"""A pod that comes up is told of by how far it is; the message and the status count them."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import Role
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import POD
from diffusion_operator.cluster.store import Store
from diffusion_operator.render import names
from diffusion_operator.status.phases import Phase, phase
from diffusion_operator.status.roles import cause
from unit.status.seen import observed, pipeline, role

LABELS = {names.PIPELINE_LABEL: "digits", names.ROLE_LABEL: "denoiser"}
WAITING = [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]
INITIALISING = [{"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}]
RUNNING = [{"name": "main", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]


def pod(node: str = "", *, ready: bool = False, containers: Any = (), name: str = "p", **fields: Any) -> dict[str, Any]:
    status = {"phase": "Pending", "containerStatuses": list(containers)}
    status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "labels": LABELS}
    spec = {"containers": [{"name": "main"}], **({"nodeName": node} if node else {})}
    return {"metadata": metadata | fields.pop("metadata", {}), "spec": spec, "status": status | fields}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(pod(), Phase.SCHEDULING, id="no node"),
        pytest.param(pod("n"), Phase.PREPARING, id="a node that has not begun"),
        pytest.param(pod("n", containers=WAITING), Phase.PREPARING, id="image and volumes"),
        pytest.param(pod("n", containers=INITIALISING), Phase.PREPARING, id="init containers"),
        pytest.param(pod("n", containers=RUNNING), Phase.LOADING, id="its process runs"),
        pytest.param(pod("n", containers=RUNNING, ready=True), None, id="ready"),
        pytest.param(pod("n", phase="Succeeded"), None, id="ended"),
        pytest.param(pod(metadata={"deletionTimestamp": "now"}), None, id="leaving"),
    ],
)
def test_each_state_is_one_phase(given: dict[str, Any], expected: Phase | None) -> None:
    assert phase(given) is expected


def test_the_store_counts_those_that_come_up_and_forgets_those_that_are_there() -> None:
    news: list[Key] = []
    store, key = Store(news.append), Key("ns", "digits")
    for number, state in enumerate((pod(name="a"), pod("n", name="b", containers=RUNNING), pod("n", name="c"))):
        store.put(POD, state)
        assert len(news) == number + 1
    assert store.starting(key, Role.DENOISER) == {Phase.SCHEDULING: 1, Phase.PREPARING: 1, Phase.LOADING: 1}
    assert store.starting(key, Role.DECODER) == {}
    assert store.problems(key, Role.DENOISER) == ()

    store.put(POD, pod("n", name="b", containers=RUNNING, ready=True))
    assert store.starting(key, Role.DENOISER) == {Phase.SCHEDULING: 1, Phase.PREPARING: 1}


def test_the_message_of_a_role_says_how_far_its_pods_are() -> None:
    seen = role(4, ready=1, starting={Phase.PREPARING: 1, Phase.LOADING: 2})
    said = cause(pipeline(), observed(denoiser=seen), Role.DENOISER)
    assert said == "3 pods starting (1 getting image and volumes, 2 loading)"
