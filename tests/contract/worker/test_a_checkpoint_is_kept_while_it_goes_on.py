"""A denoising leaves a checkpoint while it goes on, at a step's end in time, where nothing is in its way."""

from __future__ import annotations

import pytest

from diffusionpipeline.v1 import peer_pb2

from .conftest import Start, Worker, running
from .scripted_model import ScriptedModel
from .scripted_router import DENOISE, ScriptedRouter, Stream

STEPS = 4


async def asked(worker: Worker, stream: Stream, *, within: float = 0.0, **command: object) -> None:
    """In its first step, for a checkpoint."""
    await running(worker, stream, **command)
    await stream.checkpoint("n", "kept", within=within)
    await stream.heard()


async def test_it_is_an_output_that_another_worker_goes_on_from(start: Start) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    await asked(first, one)
    first.model.let_go(1)
    kept = await one.done("kept")
    assert (kept.job_id, kept.stage, kept.parked.step, kept.parked.steps) == ("job", DENOISE, 1, STEPS)
    assert kept.timings.publish_seconds > 0
    assert not one.said("stage_done", "n"), "it goes on"
    first.model.let_go(STEPS)
    done = await one.done("n")
    assert (done.timings.steps, done.HasField("parked")) == (STEPS, False)

    await other.execute(DENOISE, "goes on", source=kept.output)
    ended = await other.done("goes on")
    assert (ended.output.digest, ended.timings.steps) == (done.output.digest, STEPS - 1)
    for task in ("input of n", "kept", "n"):
        await one.release(task)
    await one.slots_used(0)


async def test_one_is_made_for_each_time_that_it_is_asked(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream)
    worker.model.let_go(2)
    await stream.step("n", 2)
    await stream.checkpoint("n", "another")
    await stream.heard()
    worker.model.let_go(STEPS)
    await stream.done("n")
    told = [report.stage_done for report in stream.said("stage_done") if report.stage_done.HasField("parked")]
    assert [(done.task_id, done.parked.step) for done in told] == [("kept", 1), ("another", 3)]


async def test_one_that_ends_before_leaves_none(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream, within=60.0)
    worker.model.let_go(STEPS)
    await stream.done("n")
    await stream.heard()
    assert not stream.said("stage_done", "kept") and not stream.said("stage_failed", "kept")


async def test_one_that_is_parked_just_then_is_its_own_checkpoint(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream)
    await stream.park("n")
    await stream.heard()
    worker.model.let_go(1)
    assert (await stream.done("n")).parked.step == 1
    assert not stream.said("stage_done", "kept")


async def test_one_that_cant_be_resumed_is_not_asked(start: Start) -> None:
    worker = await start(model=ScriptedModel(resumable=False))
    stream = await worker.stream()
    await asked(worker, stream)
    worker.model.let_go(STEPS)
    assert (await stream.done("n")).timings.steps == STEPS
    assert not stream.said("stage_done", "kept")


@pytest.mark.parametrize("nbytes", [30_000, 1 << 20], ids=["little room", "larger than the pool"])
async def test_where_little_room_is_left_there_is_none_and_it_goes_on(start: Start, nbytes: int) -> None:
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    worker.model.checkpoint_bytes = nbytes
    await asked(worker, stream)
    worker.model.let_go(STEPS)
    failed = await stream.failure("kept")
    assert await stream.failed("kept") == "POOL_FULL"
    assert "raise spec.transport.poolSize" in failed.message
    assert (await stream.done("n")).timings.steps == STEPS
    await worker.until_metrics('diffusion_worker_checkpoints_left_out_total{role="denoiser"} 1.0')
    for task in ("input of n", "n"):
        await stream.release(task)
    await stream.slots_used(0)


async def test_one_that_cant_be_made_costs_the_denoising_nothing(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    worker.model.checkpoints_fail = True
    await asked(worker, stream)
    worker.model.let_go(STEPS)
    assert await stream.failed("kept") == "MODEL_ERROR"
    assert (await stream.done("n")).timings.steps == STEPS


async def test_it_is_told_of_again_when_the_worker_registers(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream)
    worker.model.let_go(1)
    kept = await stream.done("kept")
    stream.hang_up.set()
    renewed = await worker.stream(after=stream)
    assert list(renewed.register.outputs) == [await stream.done("input of n"), kept]
    assert [task.task_id for task in renewed.register.tasks] == ["n"]
    worker.model.let_go(STEPS)
    await renewed.done("n")


async def test_a_fence_takes_it_along(start: Start, router: ScriptedRouter) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream)
    worker.model.let_go(1)
    await stream.done("kept")
    router.refusals.append(peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED))
    stream.hang_up.set()
    worker.model.let_go(STEPS)
    renewed = await worker.stream(after=stream)
    assert not renewed.register.outputs and not renewed.register.tasks
    await renewed.slots_used(0)


async def test_what_it_takes_is_measured(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await asked(worker, stream)
    worker.model.let_go(STEPS)
    await stream.done("n")
    await worker.until_metrics('diffusion_worker_checkpoint_duration_seconds_count{role="denoiser"} 1.0')
    nbytes = (await stream.done("kept")).output.length
    await worker.until_metrics(f'diffusion_worker_checkpoint_bytes_total{{role="denoiser"}} {nbytes}.0')
    await worker.until_metrics('diffusion_worker_checkpoints_left_out_total{role="denoiser"} 0.0')
    await worker.until_metrics('diffusion_worker_tasks_total{outcome="parked",role="denoiser"} 0.0')
