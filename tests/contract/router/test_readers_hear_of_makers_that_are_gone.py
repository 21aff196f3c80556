"""Who was told to pull from a peer hears when that one is given up, and nobody else."""

from __future__ import annotations

import pytest

from contract.router.conftest import Router
from contract.router.scripted_worker import ScriptedWorker, attach_all
from contract.router.test_jobs_and_streams import create
from diffusionpipeline.v1 import peer_pb2, stage_pb2


async def encoded(router: Router, encoder: ScriptedWorker) -> None:
    """The next job is given to whoever denoises."""
    await create(router)
    task = await encoder.next_task()
    await encoder.start(task)
    await encoder.finish(task)


async def next_told(worker: ScriptedWorker) -> peer_pb2.RouterCommand:
    """The next command but probes."""
    while (command := await worker.command()).HasField("probe"):
        pass
    return command


async def nothing_told(one: ScriptedWorker) -> None:
    """The next command is the answer to what it says now: that nobody needs this output."""
    done = peer_pb2.StageDone(task_id=f"t.{one.incarnation}", job_id="j", stage=stage_pb2.STAGE_ENCODE)
    await one.report(stage_done=done)
    assert (await next_told(one)).release_slot.task_id == done.task_id


async def test_a_reader_hears_that_the_one_it_read_from_has_left(router: Router) -> None:
    encoder, denoiser = await attach_all(router.target, "encoder", "denoiser")
    await encoded(router, encoder)
    await denoiser.next_task()
    (idle,) = await attach_all(router.target, "denoiser")
    await encoder.report(drained=peer_pb2.Drained())
    assert (await next_told(denoiser)).peer_gone.incarnation == encoder.incarnation
    await nothing_told(idle)


async def test_one_that_was_told_to_try_the_way_hears_of_it_too(router: Router) -> None:
    encoder = await ScriptedWorker(router.target, "encoder", offers=True).attach()
    (denoiser,) = await attach_all(router.target, "denoiser")
    assert (await denoiser.command()).probe.payload.incarnation == encoder.incarnation
    await encoder.report(drained=peer_pb2.Drained())
    assert (await next_told(denoiser)).peer_gone.incarnation == encoder.incarnation


@pytest.mark.parametrize(("protocol", "hears"), [(3, False), (4, True)])
async def test_a_worker_of_an_older_version_is_told_nothing_that_it_does_not_know(
    router: Router, protocol: int, hears: bool
) -> None:
    (encoder,) = await attach_all(router.target, "encoder")
    denoiser = await ScriptedWorker(router.target, "denoiser", protocol=protocol).attach()
    await encoded(router, encoder)
    await denoiser.next_task()
    await encoder.report(drained=peer_pb2.Drained())
    if hears:
        assert (await next_told(denoiser)).HasField("peer_gone")
    await nothing_told(denoiser)
