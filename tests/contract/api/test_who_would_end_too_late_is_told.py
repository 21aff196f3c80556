"""A request that is predicted to end after its deadline is refused with the prediction, unless it asks for it (I14)."""

from __future__ import annotations

import re

import grpc
import httpx
import pytest

from contract.api.artist import Artist
from contract.router.conftest import Router
from contract.router.scripted_worker import DEADLINE
from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2

# What messages and transfers took is part of it, as it was measured.
PASSING = 10
ASKED = {"prompt": "a red seven", "output_format": "png"}


class Slow(Artist):
    """Says that each stage took it a minute."""

    def result(self, task: peer_pb2.Execute) -> peer_pb2.StageDone:
        done = super().result(task)
        done.timings.compute_seconds = 60.0
        return done


@pytest.fixture
async def warm(router: Router, http: httpx.AsyncClient) -> Router:
    """Whose stages are known to take three minutes in all."""
    worker = await Slow(router.target).attach()
    worker.work()
    answer = await http.post("/v1/images/generations", json=ASKED)
    assert answer.status_code == 200, answer.text
    worker.allowed.clear()
    return router


async def test_by_http(warm: Router, http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/jobs", json={**ASKED, "timeout_seconds": 100})
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("too_late", "timeout_seconds")
    told = re.match(
        r"This is predicted to take ([0-9.]+) s, and its deadline is in 100 s: give it more", error["message"]
    )
    assert told is not None, error["message"]
    assert 180 <= float(told[1]) < 180 + PASSING
    assert 80 <= int(refused.headers["Retry-After"]) <= 81 + PASSING
    assert (await http.post("/v1/jobs", json={**ASKED, "timeout_seconds": 200})).status_code == 202
    late = {**ASKED, "timeout_seconds": 100, "accept_late": True}
    assert (await http.post("/v1/jobs", json=late)).status_code == 202
    metrics = (await http.get("/metrics")).text
    assert 'diffusion_router_rejected_requests_total{reason="too_late"} 1.0' in metrics


async def test_what_waits_counts_all_of_it(warm: Router, http: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await http.post("/v1/jobs", json=ASKED)).status_code == 202
    one = await predicted(http, 1, timeout_seconds=500)
    # Three of three minutes, less what is done of them, and its own three.
    assert 500 < one <= 720
    # Nine more before the last of it.
    assert await predicted(http, 10, timeout_seconds=600) == pytest.approx(one + 9 * 180, abs=180)


async def predicted(http: httpx.AsyncClient, n: int, timeout_seconds: int) -> float:
    refused = await http.post("/v1/jobs", json={**ASKED, "n": n, "timeout_seconds": timeout_seconds})
    assert refused.status_code == 429
    found = re.search(r"predicted to take ([0-9.]+) s", refused.json()["error"]["message"])
    assert found is not None
    return float(found[1])


async def test_by_grpc(warm: Router) -> None:
    parameters = stage_pb2.JobParameters(**ASKED)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        request = job_pb2.CreateJobRequest(parameters=parameters, timeout_seconds=100)
        await warm.jobs.CreateJob(request, timeout=DEADLINE)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailer = dict(refused.value.trailing_metadata() or ())
    assert trailer["code"] == "too_late"
    assert 80 <= int(trailer["retry-after"]) <= 81 + PASSING
    late = job_pb2.CreateJobRequest(parameters=parameters, timeout_seconds=100, accept_late=True)
    assert (await warm.jobs.CreateJob(late, timeout=DEADLINE)).job.id
