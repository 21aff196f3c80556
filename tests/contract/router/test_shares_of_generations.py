"""Who brings up a new generation tells the router how many new jobs begin in it, and asks how they fare there."""

from __future__ import annotations

import grpc
import pytest

from contract.router.conftest import DEADLINE, Router
from contract.router.scripted_worker import ScriptedWorker
from diffusionpipeline.v1 import job_pb2, registry_pb2, stage_pb2


async def create(router: Router) -> job_pb2.Job:
    parameters = stage_pb2.JobParameters(prompt="a red seven", output_format="png")
    return (await router.jobs.CreateJob(job_pb2.CreateJobRequest(parameters=parameters), timeout=DEADLINE)).job


async def set_shares(router: Router, **percent: int) -> None:
    await router.registry.SetShares(registry_pb2.SetSharesRequest(percent=percent), timeout=DEADLINE)


async def generations(router: Router) -> dict[str, registry_pb2.Generation]:
    answer = await router.registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)
    return {each.generation: each for each in answer.generations}


async def test_new_jobs_begin_where_the_shares_say_and_are_counted_there(router: Router) -> None:
    roles = ("encoder", "denoiser", "decoder")
    old, new = (ScriptedWorker(router.target, *roles, generation=name, capacity=4) for name in ("old", "new"))
    for worker in (old, new):
        await worker.attach()
    await set_shares(router, old=0, new=100)
    assert {name: each.share for name, each in (await generations(router)).items()} == {"old": 0, "new": 100}
    for _ in range(3):
        await create(router)
        task = await new.next_task()
        await new.start(task)
        await new.finish(task)
    await set_shares(router, old=100, new=0)
    await create(router)
    await old.next_task()
    found = await generations(router)
    assert (found["new"].done, found["old"].done, found["new"].failed) == (3, 0, 0)
    await set_shares(router)
    assert not any(each.HasField("share") for each in (await generations(router)).values())


@pytest.mark.parametrize("percent", [{"old": 50}, {"old": 90, "new": 20}])
async def test_shares_that_are_not_all_of_it_are_refused(router: Router, percent: dict[str, int]) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="100 in all") as refused:
        await set_shares(router, **percent)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await generations(router) == {}
