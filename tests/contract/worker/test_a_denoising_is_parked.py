"""I12: a denoising ends parked when the router says so; its checkpoint is an output like others, and others go on."""

from __future__ import annotations

import pytest

from diffusion_worker.work import room
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage

from .conftest import Start, Worker, running
from .scripted_model import ScriptedModel
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter, Stream

STEPS = 4


async def parked(worker: Worker, stream: Stream, task_id: str = "n", **command: object) -> peer_pb2.StageDone:
    """A denoising that was parked after its first step."""
    await running(worker, stream, task_id, **command)
    await stream.park(task_id)
    await stream.heard()
    let_go(worker, 1)
    done = await stream.done(task_id)
    worker.model.hold = False
    return done


def let_go(worker: Worker, steps: int = 100) -> None:
    worker.model.let_go(steps)


def steps_said(stream: Stream, task_id: str) -> list[tuple[int, int]]:
    return [(report.progress.step, report.progress.steps) for report in stream.said("progress", task_id)]


async def picture(router: ScriptedRouter, stream: Stream, latents: stage_pb2.Descriptor) -> bytes:
    """What becomes of latents."""
    task_id = f"decode {latents.slot_generation} of {latents.slot} of {latents.incarnation}"
    await stream.execute(DECODE, task_id, source=latents)
    (artifact,) = (await stream.done(task_id)).artifacts
    return router.files[artifact.key]


async def test_it_ends_after_its_next_step_and_another_worker_goes_on_from_there(
    start: Start, router: ScriptedRouter
) -> None:
    first, second = await start(), await start()
    one, other = await first.stream(), await second.stream()
    source = await one.encoded()
    await one.execute(DENOISE, "undisturbed", source=source)
    undisturbed = await picture(router, one, (await one.done("undisturbed")).output)

    done = await parked(first, one, source=source)
    assert (done.parked.step, done.parked.steps) == (1, STEPS)
    assert (done.stage, done.job_id, done.timings.steps) == (DENOISE, "job", 1)
    assert 0 < done.timings.park_seconds <= done.timings.compute_seconds
    assert steps_said(one, "n")[-1] == (1, STEPS)

    second.model.asks = True
    await other.execute(DENOISE, "goes on", source=done.output)
    ended = await other.done("goes on")
    assert not ended.HasField("parked")
    assert ended.timings.steps == STEPS - 1
    assert 0 < ended.timings.resume_seconds < ended.timings.compute_seconds
    said = steps_said(other, "goes on")
    assert said[0] == (0, 0) and min(said[1:]) > (1, STEPS) and said[-1] == (STEPS, STEPS)
    assert await picture(router, other, ended.output) == undisturbed
    for stream, tasks in ((one, ("undisturbed", "n", "e")), (other, ("goes on",))):
        for task in tasks:
            await stream.release(task)
        await stream.slots_used(0)


async def test_it_goes_on_where_it_was_parked_and_may_be_parked_again(start: Start, router: ScriptedRouter) -> None:
    worker = await start()
    stream = await worker.stream()
    first = await parked(worker, stream)
    second = await parked(worker, stream, "again", source=first.output)
    assert (second.parked.step, second.timings.steps) == (2, 1)
    await stream.release("n")
    await stream.execute(DENOISE, "ends", source=second.output)
    ended = await stream.done("ends")
    assert (ended.timings.steps, ended.timings.transfer_bytes) == (2, 0)
    await stream.execute(DENOISE, "undisturbed", source=(await stream.done("input of n")).output)
    undisturbed = (await stream.done("undisturbed")).output
    assert await picture(router, stream, ended.output) == await picture(router, stream, undisturbed)


async def test_the_router_is_told_at_the_beginning_whether_it_can_be_parked(start: Start) -> None:
    for resumable in (True, False):
        worker = await start(model=ScriptedModel(resumable=resumable), pod_name=f"resumable {resumable}")
        stream = await worker.stream()
        await stream.execute(DENOISE, "n", source=await stream.encoded())
        await stream.done("n")
        assert {report.progress.resumable for report in stream.said("progress", "n")} == {resumable}
        assert {report.progress.resumable for report in stream.said("progress", "e")} == {False}


async def test_a_command_that_comes_too_early_or_too_late_changes_nothing(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    source = await stream.encoded()
    await running(worker, stream, "before", source=source)
    await stream.execute(DENOISE, "waits", source=source)
    await stream.received("waits")
    await stream.park("waits")
    await stream.park("unknown")
    await stream.heard()
    worker.model.hold = False
    let_go(worker)
    for task in ("before", "waits"):
        done = await stream.done(task)
        assert (done.HasField("parked"), done.timings.steps) == (False, STEPS)
        await stream.park(task)
    await stream.heard()
    assert [len(stream.said("stage_done", task)) for task in ("before", "waits")] == [1, 1]


async def test_told_twice_it_parks_once(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.park("n")
    await stream.park("n")
    await stream.heard()
    let_go(worker)
    assert (await stream.done("n")).parked.step == 1
    await stream.park("n")
    await stream.heard()
    assert len(stream.said("stage_done", "n")) == 1


async def test_in_its_last_step_it_just_ends(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    let_go(worker, STEPS - 1)
    await stream.step("n", STEPS - 1)
    await stream.park("n")
    await stream.heard()
    let_go(worker)
    done = await stream.done("n")
    assert not done.HasField("parked")
    assert (done.timings.steps, done.timings.park_seconds) == (STEPS, 0)


async def test_an_encode_is_not_parked(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    worker.model.before_stage = lambda _: worker.model.wait()
    worker.model.hold = True
    await stream.execute(ENCODE, "e")
    await stream.step("e", 0)
    await stream.park("e")
    await stream.heard()
    let_go(worker)
    assert not (await stream.done("e")).HasField("parked")


async def test_one_that_cannot_be_resumed_ignores_the_command_and_refuses_a_checkpoint(start: Start) -> None:
    worker, other = await start(model=ScriptedModel(resumable=False)), await start(pod_name="other")
    stream, resumes = await worker.stream(), await other.stream()
    await running(worker, stream)
    await stream.park("n")
    await stream.heard()
    let_go(worker)
    assert not (await stream.done("n")).HasField("parked")

    checkpoint = (await parked(other, resumes)).output
    worker.model.calls.clear()
    await stream.execute(DENOISE, "goes on", source=checkpoint)
    assert await stream.failed("goes on") == "MODEL_ERROR"
    assert "the input is a checkpoint" in (await stream.failure("goes on")).message
    assert not worker.model.calls, "it never begins from its first step"


async def test_a_cancel_that_comes_after_the_command_wins(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.park("n")
    await stream.cancel("n")
    await stream.heard()
    let_go(worker)
    assert await stream.failed("n") == "CANCELLED"
    await stream.release("input of n")
    await stream.slots_used(0)
    assert not stream.said("stage_done", "n")


@pytest.mark.parametrize("after", [True, False], ids=["parked", "about to be"])
async def test_a_fence_takes_checkpoints_along(start: Start, router: ScriptedRouter, after: bool) -> None:
    worker = await start()
    stream = await worker.stream()
    if after:
        await parked(worker, stream)
    else:
        await running(worker, stream)
        await stream.park("n")
        await stream.heard()
    router.refusals.append(peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED))
    stream.hang_up.set()
    let_go(worker)
    renewed = await worker.stream(after=stream)
    assert renewed.register.incarnation != stream.register.incarnation
    assert not renewed.register.outputs and not renewed.register.tasks
    await renewed.slots_used(0)


async def test_a_checkpoint_is_reported_again_when_the_stream_broke(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    done = await parked(worker, stream)
    await stream.release("input of n")
    await stream.slots_used(1)
    stream.hang_up.set()
    renewed = await worker.stream(after=stream)
    assert list(renewed.register.outputs) == [done]
    await renewed.execute(DENOISE, "n", source=done.output)
    assert await renewed.done("n") == done, "it is known, and not denoised once more"
    await renewed.release("n")
    await renewed.slots_used(0)


async def test_whether_it_can_be_parked_is_said_again_when_the_stream_broke(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    stream.hang_up.set()
    renewed = await worker.stream(after=stream)
    await renewed.step("n", 0)
    assert renewed.said("progress", "n")[0].progress.resumable
    let_go(worker)
    await renewed.done("n")


async def test_one_of_two_that_share_forwards_is_parked_and_the_other_goes_on(start: Start) -> None:
    worker = await start(batching_mode="Requests", max_requests=2)
    stream = await worker.stream()
    worker.model.asks = True
    sources = [await stream.encoded(f"e{seed}", seed=seed) for seed in (1, 2)]
    await running(worker, stream, "parks", source=sources[0])
    await stream.execute(DENOISE, "stays", source=sources[1])
    await stream.step("stays", 0)
    let_go(worker, 1)
    await stream.step("parks", 1)
    await stream.park("parks")
    await stream.heard()
    worker.model.hold = False
    let_go(worker)
    assert (await stream.done("parks")).parked.step == 2
    stays = await stream.done("stays")
    assert not stays.HasField("parked")
    assert stays.timings.steps == STEPS
    assert 2 in worker.model.network.batches


async def test_a_checkpoint_waits_for_room_in_a_full_pool(start: Start, router: ScriptedRouter) -> None:
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    worker.model.nbytes_of["fills it"] = 30_000
    await stream.execute(ENCODE, "fills it", prompt="fills it")
    await stream.done("fills it")
    worker.model.checkpoint_bytes = 30_000
    await running(worker, stream)
    await stream.park("n")
    await stream.heard()
    let_go(worker, 1)
    # It is no longer computed, for others are.
    await stream.execute(ENCODE, "meanwhile", prompt="meanwhile")
    await stream.done("meanwhile")
    assert not stream.said("stage_done", "n")
    await stream.release("fills it")
    assert (await stream.done("n")).parked.step == 1


@pytest.mark.parametrize("why", ["larger than the pool", "no room in time"])
async def test_one_whose_checkpoint_finds_no_room_goes_on_and_loses_no_step(
    start: Start, router: ScriptedRouter, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(room, "ROOM_SECONDS", 0.2)
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    source = await stream.encoded()
    await stream.execute(DENOISE, "undisturbed", source=source)
    undisturbed = await picture(router, stream, (await stream.done("undisturbed")).output)
    fits = why == "no room in time"
    worker.model.checkpoint_bytes = 60_000 if fits else 1 << 20
    await running(worker, stream, source=source)
    await stream.execute(DENOISE, "urgent", source=source, order=-1.0)
    await stream.received("urgent")
    await stream.park("n")
    await stream.heard()
    let_go(worker, 1)
    # It lets others go first, but whoever takes back what was not begun does not get it.
    await stream.step("urgent", 0)
    await stream.cancel("n", only_if_waiting=True)
    await stream.heard()
    worker.model.hold = False
    let_go(worker)
    done = await stream.done("n")
    assert [stage for stage, _ in worker.model.calls].count(Stage.DENOISE) == len(["undisturbed", "n", "urgent", "n"])
    assert not done.HasField("parked")
    assert done.timings.steps == STEPS
    assert stream.said("progress", "n")[-1].progress.resumable is fits
    assert await picture(router, stream, done.output) == undisturbed


async def test_of_those_that_wait_the_lower_in_order_goes_first_and_then_the_older_one(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    sources = {name: await stream.encoded(f"e {name}", prompt=name) for name in ("runs", "late", "old", "new", "soon")}
    await running(worker, stream, "runs", source=sources["runs"])
    for name, order in (("late", 7.5), ("old", 0.0), ("new", 0.0), ("soon", -1e9)):
        await stream.execute(DENOISE, name, source=sources[name], order=order)
        await stream.received(name)
    await stream.execute(ENCODE, "encoded", prompt="encoded", order=-1e12)
    worker.model.calls.clear()
    worker.model.hold = False
    let_go(worker)
    for name in ("late", "encoded"):
        await stream.done(name)
    denoised = [prompt for stage, prompt in worker.model.calls if stage is Stage.DENOISE]
    assert denoised == ["soon", "old", "new", "late"]


async def test_a_worker_that_leaves_parks_what_it_is_told_to_and_leaves_when_it_was_taken_over(start: Start) -> None:
    leaving, other = await start("denoiser", drain_seconds=60.0), await start("encoder", "denoiser")
    goes, stays = await leaving.stream(), await other.stream()
    await running(leaving, goes, source=await stays.encoded())
    leaving.stop.set()
    await goes.until(lambda: any(r.heartbeat.draining for r in goes.said("heartbeat")), "draining")
    await goes.park("n")
    await goes.heard()
    let_go(leaving, 1)
    checkpoint = (await goes.done("n")).output
    await stays.execute(DENOISE, "goes on", source=checkpoint)
    assert (await stays.done("goes on")).timings.steps == STEPS - 1
    assert not goes.said("drained")
    await goes.release("n")
    await goes.until(lambda: bool(goes.said("drained")), "drained")
    await leaving.ended()


async def test_what_is_parked_and_resumed_is_counted(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    done = await parked(worker, stream)
    await stream.execute(DENOISE, "goes on", source=done.output)
    await stream.done("goes on")
    await worker.until_metrics('diffusion_worker_park_duration_seconds_count{role="denoiser"} 1.0')
    await worker.until_metrics('diffusion_worker_resumed_total{role="denoiser"} 1.0')
    await worker.until_metrics('diffusion_worker_steps_total{role="denoiser"} 4.0')
    await worker.until_metrics('diffusion_worker_tasks_total{outcome="parked",role="denoiser"} 1.0')
    await worker.until_metrics('diffusion_worker_tasks_total{outcome="done",role="denoiser"} 1.0')
