"""Whatever the API server answers, or does not, what was asked for is so in the end; metrics tell what was in the way.

Each test has an operator and a proxy of its own, which fails on cue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest

from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import Pipelines, pipeline
from testbed.controlplane.proxy import Answer, Call, Hang, Proxy, Request, matching
from testbed.waiting import throughout

NO_ROUTER: Final = "--router-address=127.0.0.1:1"
OUTAGE_SECONDS: Final = 60.0
STATEFUL_SETS: Final = "/statefulsets/[^/]+$"
STATUS: Final = "/diffusionpipelines/[^/]+/status$"


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    return operators(NO_ROUTER)


class TestAnApiServerThatIsNotThere:
    def test_edits_of_a_minute_without_it_are_made_so_when_it_is_back(
        self, cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
    ) -> None:
        pipelines.create(pipeline())
        cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
        proxy.down()
        begun = time.monotonic()
        pipelines.edit("digits", roles={"denoiser": {"replicas": 2}})
        pipelines.create(pipeline("second"))
        pipelines.api.delete(pipelines.path("StatefulSet", "digits-encoder"))
        # A restart would not bring the API server back.
        rest = OUTAGE_SECONDS - (time.monotonic() - begun)
        throughout(lambda: operator.answers("/healthz"), rest, "it is alive", pause=0.5)
        proxy.up()
        cluster.until(lambda: pipelines.replicas("digits-denoiser") == 2, 60, "the edit is made so")
        cluster.until(lambda: pipelines.replicas("digits-encoder") == 1, 60, "what was deleted is back")
        cluster.until(lambda: pipelines.settled("digits") and pipelines.settled("second"), 60, "both have settled")
        assert operator.metric("rest_client_requests_total", code="<error>") > 0
        for resource in ("statefulsets", "services", "pods"):
            assert operator.metric("diffusion_operator_watch_restarts_total", resource=resource) > 0, resource

    def test_a_creation_survives_its_crash(
        self, cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
    ) -> None:
        crash = proxy.rule(Call(lambda: cluster.kill_program("kube-apiserver")), matching("PATCH"), skip=6)
        pipelines.create(pipeline())
        crash.wait(30)
        cluster.start_program("kube-apiserver")
        cluster.wait_ready()
        cluster.until(lambda: pipelines.settled("digits"), 90, "the pipeline has settled")
        assert operator.metric("rest_client_requests_total", code="<error>") > 0
        assert operator.metric("workqueue_retries_total") > 0
        assert operator.answers("/healthz")

    def test_an_operator_that_is_started_before_it_waits_for_it(
        self, cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
    ) -> None:
        operator.kill()
        pipelines.create(pipeline())
        proxy.down()
        operator.start(ready_within=None)
        cluster.until(lambda: operator.answers("/healthz"), 30, "it is alive")
        assert not operator.answers("/readyz")
        proxy.up()
        operator.wait_ready()
        cluster.until(lambda: pipelines.applied("digits"), 30, "the pipeline is made")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/serviceaccounts/"),
        ("PATCH", STATEFUL_SETS),
        ("PATCH", STATUS),
        ("POST", "/diffusionpipelinerolescalers$"),
        ("PATCH", "/diffusionpipelinerolescalers/[^/]+/status$"),
    ],
)
@pytest.mark.parametrize("status", [409, 500])
def test_a_refused_write_is_tried_again(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator, status: int, method: str, path: str
) -> None:
    rule = proxy.rule(Answer(status), matching(method, path), times=2)
    pipelines.create(pipeline(roles={"encoder": {}, "denoiser": {"scaling": {"mode": "External"}}, "decoder": {}}))
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    assert rule.hits == 2
    assert operator.metric("rest_client_requests_total", code=str(status)) == 2
    assert operator.metric("workqueue_retries_total") > 0


def test_an_event_that_is_refused_is_told_later(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
) -> None:
    pipelines.create(pipeline())
    cluster.until(lambda: pipelines.applied("digits"), 30, "the pipeline is made")
    rule = proxy.rule(Answer(500), matching("POST", "/events$"))
    pipelines.edit("digits", roles={"denoiser": {"replicas": 2}})
    cluster.until(lambda: pipelines.events("digits", "Scaled") == ["denoiser: 1 to 2 replicas"], 30, "it is told")
    assert rule.hits == 1


@pytest.mark.parametrize(
    ("method", "path", "watch"),
    [
        ("PATCH", STATEFUL_SETS, False),
        ("PATCH", STATUS, False),
        ("GET", "/statefulsets$", True),
        ("GET", "/diffusionpipelines$", True),
    ],
    ids=["child", "status", "watch-of-children", "watch-of-pipelines"],
)
def test_it_is_not_asked_again_before_it_wants_to_be(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator, method: str, path: str, watch: bool
) -> None:
    asked = matching(method, path, watch=watch)
    # Ready says that all was listed. A watch that is not open yet could not be cut, and would not be asked for again.
    cluster.until(lambda: not watch or proxy.watches(asked), 30, "the watch is open")
    rule = proxy.rule(Answer(429, {"Retry-After": "3"}), asked)
    before = len(proxy.requests)
    proxy.cut_watches()
    pipelines.create(pipeline())

    def requests() -> list[Request]:
        return [request for request in proxy.requests[before:] if asked(request)]

    cluster.until(lambda: len(requests()) > 1 and pipelines.settled("digits"), 60, "the pipeline has settled")
    assert rule.hits == 1
    refused, again = requests()[:2]
    assert refused.path == again.path
    assert again.at - refused.at >= 3
    if "diffusionpipelines$" not in path:
        assert operator.metric("rest_client_requests_total", code="429") == 1


def test_a_request_that_hangs_is_given_up_and_holds_up_no_other_pipeline(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: Operator
) -> None:
    hanging = proxy.rule(Hang(), matching("PATCH", "/statefulsets/digits-encoder$"))
    pipelines.create(pipeline())
    hanging.wait(30)
    pipelines.create(pipeline("second"))
    cluster.until(lambda: pipelines.settled("second"), 25, "the other pipeline has settled")
    assert pipelines.replicas("digits-encoder") == -1
    cluster.until(lambda: pipelines.settled("digits"), 60, "the first has settled")
    assert operator.metric("rest_client_requests_total", code="<error>") == 1
    assert operator.metric("workqueue_retries_total") > 0
