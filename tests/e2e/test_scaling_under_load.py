"""The denoiser goes from one pod to three and back, or to none, by an edit, while clients go on asking."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from testbed.deployment.load import Load, Request, requests
from testbed.deployment.pipeline import HTTP_PORT, Deployed
from testbed.deployment.starts import phases
from testbed.nodes.cluster import NodeCluster

CLIENTS = 6
# What two more pods take to start beside a pipeline at work, several times over.
SECONDS = 300.0

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def digits(deploy: Callable[[str], Deployed]) -> Deployed:
    return deploy("digits")


def test_denoisers_that_come_get_work_and_those_that_go_lose_none(
    cluster: NodeCluster,
    digits: Deployed,
    long_pictures: dict[Request, bytes],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    load = Load(digits, long_pictures, CLIENTS, SECONDS)
    stays, *others = (f"digits-denoiser-{number}" for number in range(3))
    uid = digits.uid(stays)
    patch = ("patch", "dpipe", "digits", "--namespace", digits.namespace, "--type=merge", "--patch")
    with load.running():
        digits.until(lambda: len(load.done) >= CLIENTS, SECONDS, "the pipeline is at work")

        asked, edited = datetime.now(UTC), time.monotonic()
        cluster.kubectl(*patch, '{"spec": {"roles": {"denoiser": {"replicas": 3}}}}')
        digits.until(lambda: load.done_by("denoise", edited).keys() >= {*others}, SECONDS, "new denoisers work")
        shared = time.monotonic()
        starts = {pod: phases(digits, pod, asked) for pod in others}
        digits.wait_ready(SECONDS)
        digits.until(
            lambda: min(load.done_by("denoise", shared)[pod] for pod in (stays, *others)) >= 2,
            SECONDS,
            "each of the three does its part",
        )

        begun = time.monotonic()
        cluster.kubectl(*patch, '{"spec": {"roles": {"denoiser": {"replicas": 1}}}}')
        digits.until(lambda: not any(digits.uid(pod) for pod in others), SECONDS, "the pods are gone")
        gone = time.monotonic()
        digits.until(lambda: load.done_by("denoise", gone)[stays] > CLIENTS, SECONDS, "one denoiser does all the work")
        digits.wait_ready(SECONDS)

    assert digits.uid(stays) == uid
    # Told to stop, a worker parks what it computes, and others go on with that.
    assert not load.again, f"steps were made twice: {load.again}"
    assert digits.metric(digits.router_pod, "diffusion_router_jobs_interrupted_total") == 0
    digits.until(digits.at_rest, SECONDS, "nothing is left in the pools")
    for pod, seconds in starts.items():
        record_testsuite_property(f"start of {pod} under load, seconds", seconds)
    record_testsuite_property(
        "1 to 3 to 1 denoisers",
        f"{len(load.done)} jobs; {shared - edited:.1f} s from the edit to a job done by each new pod; both gone "
        f"{gone - begun:.1f} s after the edit back",
    )


def test_a_role_at_zero_keeps_jobs_waiting_and_their_clients_told(
    cluster: NodeCluster, digits: Deployed, pictures: dict[Request, bytes]
) -> None:
    """Through the Service, which leads to routers that are ready only."""
    request = requests()[0]
    digits.scale("denoiser", 0)
    digits.until(lambda: not digits.pods("denoiser"), SECONDS, "no denoiser is left")
    digits.until(lambda: len(digits.peers()) == 2, SECONDS, "the router knows of none")
    with (
        cluster.port_forward("service/digits-router-api", HTTP_PORT, digits.namespace) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http,
    ):
        assert http.get("/readyz").status_code == 503
        accepted = http.post("/v1/jobs", json=request.body)
        assert accepted.status_code == 202, accepted.text
        job = f"/v1/jobs/{accepted.json()['data'][0]['id']}"
        digits.until(
            lambda: [stage["stage"] for stage in http.get(job).json()["stages"]] == ["encode"], SECONDS, "it is encoded"
        )
        digits.scale("denoiser", 1)
        digits.until(lambda: http.get(job).json()["status"] == "completed", SECONDS, "it is completed")
        picture = http.get(httpx.URL(http.get(job).json()["artifacts"][0]["url"]).path)
    assert picture.content == pictures[request]
    digits.wait_ready(SECONDS)
