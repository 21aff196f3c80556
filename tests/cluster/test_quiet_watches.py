"""Where nothing happens, watches are heard all the same; of one that is stuck nothing is heard.

Streams last minutes, and seconds here: it is the same process but for these constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from diffusion_operator.cluster.kinds import CHILDREN, EVENT, PIPELINE, POD, POD_MONITOR, SCALER
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import HastyOperator
from testbed.controlplane.pipelines import Pipelines, pipeline
from testbed.controlplane.proxy import Answer, Hang, Proxy, matching

REFLECTED: Final = sorted(kind.plural for kind in (*CHILDREN, POD, EVENT))
WATCHED: Final = sorted([*REFLECTED, PIPELINE.plural, SCALER.plural])
RESTARTS: Final = "diffusion_operator_watch_restarts_total"
HASTE: Final = {
    "cluster.reflector.WATCH_SECONDS": (1, 2),
    "cluster.reflector.UNMARKED_WATCH_SECONDS": (1, 2),
    "cluster.reflector.ABSENT_SECONDS": 1.0,
    "cluster.watching.STREAM_SECONDS": 1,
    "cluster.client.SILENCE_SECONDS": 5.0,
}


@pytest.fixture
def operator(proxy: Proxy, namespace: str, tmp_path: Path) -> Iterator[HastyOperator]:
    # No resync comes to help.
    flags = (f"--watch-namespaces={namespace}", "--router-address=127.0.0.1:1", "--resync-seconds=3600")
    log = tmp_path / "operator.log"
    with HastyOperator(proxy.kubeconfig, *flags, constants=HASTE, log=log) as running:
        yield running


def heard(operator: HastyOperator, resource: str) -> float:
    """When, in Unix time; 0: never."""
    return operator.metric("diffusion_operator_watch_last_event_timestamp_seconds", resource=resource)


def until_heard_anew(cluster: Cluster, operator: HastyOperator, *resources: str, times: int = 3) -> None:
    for _ in range(times):
        before = {resource: heard(operator, resource) for resource in resources}
        for resource, then in before.items():
            cluster.until(
                lambda resource=resource, then=then: heard(operator, resource) > then,  # type: ignore[misc]
                60,
                f"{resource}: something is heard of the watch",
            )


def restarts(operator: HastyOperator, *resources: str) -> dict[str, float]:
    return {resource: operator.metric(RESTARTS, resource=resource) for resource in resources}


def test_all_watches_are_heard_though_nothing_happens_and_none_restarts(
    cluster: Cluster, proxy: Proxy, operator: HastyOperator
) -> None:
    until_heard_anew(cluster, operator, *WATCHED)
    assert restarts(operator, *REFLECTED) == dict.fromkeys(REFLECTED, 0)


def test_a_kind_that_the_api_server_lacks_is_heard_of_and_no_restart(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: HastyOperator
) -> None:
    absent = proxy.rule(Answer(404), matching("GET", f"/{POD_MONITOR.plural}$"), times=None)
    absent.wait(60)
    until_heard_anew(cluster, operator, POD_MONITOR.plural)
    assert restarts(operator, POD_MONITOR.plural) == {POD_MONITOR.plural: 0}
    # And the rest goes on.
    pipelines.create(pipeline())
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")


@pytest.mark.parametrize("resource", [POD.plural, EVENT.plural, PIPELINE.plural, SCALER.plural])
def test_a_watch_that_is_stuck_is_heard_no_more(
    cluster: Cluster, proxy: Proxy, operator: HastyOperator, resource: str
) -> None:
    until_heard_anew(cluster, operator, resource)
    stuck = proxy.rule(Hang(), matching("GET", f"/{resource}$", watch=True), times=None)
    stuck.wait(60)
    then = heard(operator, resource)
    until_heard_anew(cluster, operator, *(other for other in WATCHED if other != resource))
    if resource in REFLECTED:
        cluster.until(lambda: operator.metric(RESTARTS, resource=resource, reason="broken") >= 2, 60, "it tries again")
    assert heard(operator, resource) == then
    proxy.reset()
    until_heard_anew(cluster, operator, resource)
