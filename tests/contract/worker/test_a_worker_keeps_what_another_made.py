"""A worker keeps a copy of what one that leaves has made: the same bytes in its own pool, and nothing is computed."""

from __future__ import annotations

import pytest

from diffusionpipeline.v1 import peer_pb2, stage_pb2

from .conftest import Start, Worker, running
from .scripted_router import DENOISE, ENCODE, ScriptedRouter, Stream

STEPS = 4


async def copied(
    stream: Stream, source: peer_pb2.StageDone, task_id: str = "copy", **command: object
) -> peer_pb2.StageDone:
    await copy(stream, source, task_id, **command)
    return await stream.done(task_id)


async def copy(stream: Stream, source: peer_pb2.StageDone, task_id: str, deadline: float = 60.0) -> None:
    execute = peer_pb2.Execute(
        task_id=task_id,
        job_id="job",
        stage=source.stage,
        input=source.output,
        input_task_id=source.task_id,
        deadline_seconds=deadline,
        copy=True,
        parameters=stage_pb2.JobParameters(prompt="a red seven"),
    )
    if source.HasField("parked"):
        execute.parked.CopyFrom(source.parked)
    await stream.send(execute=execute)


async def encoded(stream: Stream) -> peer_pb2.StageDone:
    await stream.execute(ENCODE, "e")
    return await stream.done("e")


async def checkpoint(worker: Worker, stream: Stream) -> peer_pb2.StageDone:
    await running(worker, stream, "n")
    await stream.park("n")
    await stream.heard()
    worker.model.let_go(1)
    done = await stream.done("n")
    worker.model.hold = False
    return done


async def test_conditioning_is_kept_by_another_encoder_when_its_own_has_gone(
    start: Start, router: ScriptedRouter
) -> None:
    first, second, third = await start(), await start(), await start()
    one, other = await first.stream(), await second.stream()
    source = await encoded(one)
    kept = await copied(other, source)
    assert (kept.stage, kept.job_id, kept.timings.compute_seconds) == (ENCODE, "job", 0)
    assert kept.output.digest == source.output.digest
    assert kept.output.incarnation == other.register.incarnation
    assert not second.model.calls

    await one.release("e")
    await one.slots_used(0)
    denoiser = await third.stream()
    await denoiser.execute(DENOISE, "from the copy", source=kept.output)
    from_copy = await denoiser.done("from the copy")
    await one.execute(ENCODE, "again")
    await denoiser.execute(DENOISE, "from anew", source=(await one.done("again")).output)
    assert from_copy.output.digest == (await denoiser.done("from anew")).output.digest
    await other.release("copy")
    await other.slots_used(0)


async def test_a_copy_of_a_checkpoint_is_a_checkpoint(start: Start) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    source = await checkpoint(first, one)
    kept = await copied(other, source)
    assert kept.parked == source.parked
    assert kept.output.digest == source.output.digest
    await other.execute(DENOISE, "goes on", source=kept.output)
    assert (await other.done("goes on")).timings.steps == STEPS - 1


async def test_it_is_told_of_again_when_the_worker_registers(start: Start) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    kept = await copied(other, await checkpoint(first, one))
    other.hang_up.set()
    again = await second.stream(after=other)
    assert list(again.register.outputs) == [kept]


async def test_one_that_is_gone_cant_be_copied_and_leaves_no_slot(start: Start) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    source = await encoded(one)
    await one.release("e")
    await one.slots_used(0)
    await copy(other, source, "copy")
    assert (await other.failure("copy")).kind == stage_pb2.FAILURE_KIND_TRANSFER
    await other.slots_used(0)


@pytest.mark.parametrize("deadline", [0.0, -1.0])
async def test_after_its_jobs_deadline_nothing_is_copied(start: Start, deadline: float) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    await copy(other, await encoded(one), "copy", deadline)
    assert (await other.failure("copy")).kind == stage_pb2.FAILURE_KIND_DEADLINE


async def test_a_denoiser_keeps_conditioning_without_being_an_encoder(start: Start) -> None:
    first, second, third = await start(), await start("denoiser"), await start("denoiser")
    one, keeper, other = await first.stream(), await second.stream(), await third.stream()
    source = await encoded(one)
    kept = await copied(keeper, source)
    assert (kept.stage, kept.output.digest) == (ENCODE, source.output.digest)
    await one.execute(DENOISE, "from its own", source=source.output)
    expected = (await one.done("from its own")).output.digest
    await one.release("e")
    for stream in (keeper, other):
        await stream.execute(DENOISE, "d", source=kept.output)
        assert (await stream.done("d")).output.digest == expected
    await second.until_metrics('diffusion_worker_tasks_total{outcome="copied",role="denoiser"} 1.0')
    keeper.hang_up.set()
    again = await second.stream(after=keeper)
    assert kept in list(again.register.outputs)


async def test_who_neither_encodes_nor_denoises_keeps_no_conditioning(start: Start) -> None:
    first, second = await start(), await start("decoder")
    one, other = await first.stream(), await second.stream()
    await copy(other, await encoded(one), "copy")
    assert (await other.failure("copy")).kind == stage_pb2.FAILURE_KIND_INCOMPATIBLE
    await other.slots_used(0)


async def test_metrics_tell_copies_and_checkpoints_from_what_was_computed(start: Start) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    source = await checkpoint(first, one)
    await copied(other, source)
    await first.until_metrics('diffusion_worker_tasks_total{outcome="parked",role="denoiser"} 1.0')
    await second.until_metrics('diffusion_worker_tasks_total{outcome="copied",role="denoiser"} 1.0')
    await second.until_metrics('diffusion_worker_tasks_total{outcome="done",role="denoiser"} 0.0')
