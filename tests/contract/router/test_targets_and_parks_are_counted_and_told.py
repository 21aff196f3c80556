"""What a denoising that is parked looks like to its client, and what the router's metrics say of targets and parks."""

from __future__ import annotations

import httpx
import pytest

from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2

from .conftest import Router, Start
from .scripted_worker import DEADLINE, ScriptedWorker, attach_all


async def create(router: Router, prompt: str, **terms: object) -> job_pb2.Job:
    parameters = stage_pb2.JobParameters(prompt=prompt, output_format="png")
    return (await router.jobs.CreateJob(job_pb2.CreateJobRequest(parameters=parameters, **terms), timeout=DEADLINE)).job


async def ended(router: Router, job_id: str) -> job_pb2.Job:
    job = job_pb2.Job()
    async for update in router.jobs.WatchJob(job_pb2.WatchJobRequest(id=job_id), timeout=DEADLINE):
        job = update.job
    return job


async def metrics(router: Router, *names: str) -> dict[str, float]:
    """Samples of these metrics that are not 0."""
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    found = (
        line.rsplit(" ", 1) for line in lines if line.startswith(tuple(f"diffusion_router_{name}" for name in names))
    )
    return {name.removeprefix("diffusion_router_"): float(value) for name, value in found if float(value)}


class Slow(ScriptedWorker):
    """Says that each stage took it a minute: what takes no time is not parked."""

    def result(self, task: peer_pb2.Execute) -> peer_pb2.StageDone:
        done = super().result(task)
        done.timings.compute_seconds = 60.0
        return done


async def begin(denoiser: ScriptedWorker) -> peer_pb2.Execute:
    """It makes the first of four steps of its next task, after any of which that can be parked."""
    task = await denoiser.next_task()
    for step in (0, 1):
        await denoiser.report(progress=peer_pb2.Progress(task_id=task.task_id, step=step, steps=4, resumable=True))
    return task


async def park(denoiser: ScriptedWorker) -> None:
    """It does as it is told."""
    while not (command := await denoiser.command()).HasField("park"):
        pass
    task = denoiser.tasks.pop(command.park.task_id)
    done = denoiser.result(task)
    done.parked.step, done.parked.steps = 2, 4
    denoiser.held[task.task_id] = done
    await denoiser.report(stage_done=done)


async def finish(worker: ScriptedWorker) -> peer_pb2.Execute:
    task = await worker.next_task()
    await worker.start(task)
    await worker.finish(task)
    return task


async def test_one_that_gives_way_is_parked_and_its_job_says_so(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    encoder, denoiser, decoder = [Slow(router.target, role) for role in ("encoder", "denoiser", "decoder")]
    for worker in (encoder, denoiser, decoder):
        await worker.attach()
    for worker in (encoder, decoder):
        worker.work()
    # It is known then how long the stages take.
    first = await create(router, "first")
    await finish(denoiser)
    await ended(router, first.id)
    long = await create(router, "long", priority=job_pb2.PRIORITY_BATCH)
    await begin(denoiser)
    short = await create(router, "short", priority=job_pb2.PRIORITY_INTERACTIVE)
    await park(denoiser)
    assert (await finish(denoiser)).job_id == short.id
    assert (await ended(router, short.id)).status == job_pb2.JOB_STATUS_COMPLETED
    goes_on = await finish(denoiser)
    assert (goes_on.job_id, goes_on.parked.step) == (long.id, 2)
    stages = (await ended(router, long.id)).stages
    assert [(stage.stage, stage.parked.step, stage.parked.steps) for stage in stages] == [
        (stage_pb2.STAGE_ENCODE, 0, 0),
        (stage_pb2.STAGE_DENOISE, 2, 4),
        (stage_pb2.STAGE_DENOISE, 0, 0),
        (stage_pb2.STAGE_DECODE, 0, 0),
    ]
    async with httpx.AsyncClient(base_url=router.url) as http:
        told = (await http.get(f"/v1/jobs/{long.id}")).json()["stages"]
    assert [stage["parked"] for stage in told] == [None, {"step": 2, "steps": 4}, None, None]
    assert await metrics(router, "parks_total", "copies_total") == {'parks_total{reason="gives_way"}': 1}


async def test_one_whose_peer_leaves_is_parked_and_what_that_keeps_is_copied(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    encoder, denoiser = await attach_all(router.target, "encoder", "denoiser")
    encoder.work()
    job = await create(router, "x")
    await begin(denoiser)
    other = (await attach_all(router.target, "denoiser"))[0]
    await denoiser.report(heartbeat=peer_pb2.Heartbeat(draining=True))
    await park(denoiser)
    task = await other.next_task()
    assert (task.job_id, task.parked.step) == (job.id, 2)
    assert await metrics(router, "parks_total") == {'parks_total{reason="leaves"}': 1}


async def test_an_output_that_another_is_told_to_keep_is_counted(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    (leaves,) = await attach_all(router.target, "encoder")
    await create(router, "x")
    await finish(leaves)
    (stays,) = await attach_all(router.target, "encoder")
    await leaves.report(heartbeat=peer_pb2.Heartbeat(draining=True))
    assert (await stays.next_task()).copy
    assert await metrics(router, "copies_total") == {"copies_total": 1}


@pytest.mark.parametrize(("target", "met"), [(600.0, "true"), (1e-6, "false")])
async def test_whether_a_target_was_met_is_counted_by_priority(start_router: Start, target: float, met: str) -> None:
    router = await start_router(lease_seconds=300.0)
    cancelled = await create(router, "y", target_seconds=target)
    await router.jobs.CancelJob(job_pb2.CancelJobRequest(id=cancelled.id), timeout=DEADLINE)
    job = await create(router, "x", target_seconds=target, priority=job_pb2.PRIORITY_BATCH)
    late = {"late_requests": 1.0} if met == "false" else {}
    assert await metrics(router, "late_requests") == late
    for worker in await attach_all(router.target, "encoder", "denoiser", "decoder"):
        worker.work()
    await ended(router, job.id)
    assert await metrics(router, "targets_total") == {f'targets_total{{met="{met}",priority="batch"}}': 1}


async def test_how_far_predictions_are_off_is_counted_once_there_are_any(start_router: Start) -> None:
    router = await start_router(lease_seconds=300.0)
    for worker in await attach_all(router.target, "encoder", "denoiser", "decoder"):
        worker.work()
    for expected in ({}, {"prediction_ratio_count": 1.0}):
        await ended(router, (await create(router, "x")).id)
        assert await metrics(router, "prediction_ratio_count") == expected
