"""A job's way through workers, as the router sees it."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import Stage

from .conftest import Start
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter, Stream


async def pass_through(encoder: Stream, denoiser: Stream, decoder: Stream) -> stage_pb2.Artifact:
    """One job, whose slots are released as the router would; the picture's place in the store."""
    await encoder.execute(ENCODE, "e")
    encoded = await encoder.done("e")
    await denoiser.execute(DENOISE, "n", source=encoded.output)
    denoised = await denoiser.done("n")
    await encoder.release("e")
    await decoder.execute(DECODE, "d", source=denoised.output)
    decoded = await decoder.done("d")
    await denoiser.release("n")
    await decoder.release("d")
    (artifact,) = decoded.artifacts
    return artifact


@pytest.mark.parametrize("colocated", [True, False], ids=["in one worker", "in three workers"])
async def test_a_job_passes_three_stages_and_leaves_no_slot_behind(
    router: ScriptedRouter, start: Start, colocated: bool
) -> None:
    if colocated:
        streams = [await (await start()).stream()] * 3
    else:
        streams = [await (await start(role)).stream() for role in ("encoder", "denoiser", "decoder")]
    artifact = await pass_through(*streams)
    with Image.open(io.BytesIO(router.files[artifact.key])) as image:
        assert image.getpixel((0, 0)) == 7 + 4  # seed and steps
    assert (artifact.media_type, artifact.width, artifact.height, artifact.num_frames) == ("image/png", 8, 8, 1)
    for stream in streams:
        await stream.slots_used(0)
    denoised = (await streams[1].done("n")).timings
    assert denoised.steps == 4
    assert denoised.compute_seconds > 0
    assert (denoised.transfer_bytes > 0) is not colocated


async def test_steps_are_reported_in_order_and_the_last_one_is_never_lost(start: Start) -> None:
    stream = await (await start()).stream()
    await stream.execute(DENOISE, "n", source=await stream.encoded("e", num_inference_steps=50))
    await stream.done("n")
    kinds = [kind for report in stream.reports if (kind := report.WhichOneof("report")) != "heartbeat"]
    assert kinds[:3] == ["progress", "stage_done", "progress"]
    assert kinds[-1] == "stage_done"
    assert not stream.said("input_received")  # what starts at once has its input
    steps = [(report.progress.step, report.progress.steps) for report in stream.said("progress", "n")]
    assert steps[-1] == (50, 50)
    assert steps == sorted(steps)
    assert len(steps) < 20


async def test_the_same_execute_twice_computes_once(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    worker.model.hold = True
    await stream.execute(ENCODE, "e")
    encoded = await stream.done("e")
    await stream.execute(DENOISE, "n", source=encoded.output)
    await stream.step("n", 0)
    await stream.execute(DENOISE, "n", source=encoded.output)
    await stream.heard()
    worker.model.let_go(4)
    first = await stream.done("n")
    await stream.execute(DENOISE, "n", source=encoded.output)
    await stream.until(lambda: len(stream.said("stage_done", "n")) == 2, "second report")
    assert stream.said("stage_done", "n")[1].stage_done == first
    assert [stage for stage, _ in worker.model.calls] == [Stage.ENCODE, Stage.DENOISE]


async def test_the_next_input_is_pulled_while_a_stage_computes(start: Start) -> None:
    encoder, denoiser = await start("encoder"), await start("denoiser")
    made, used = await encoder.stream(), await denoiser.stream()
    denoiser.model.hold = True
    for name in ("1", "2"):
        await made.execute(ENCODE, f"e{name}")
        await used.execute(DENOISE, f"n{name}", source=(await made.done(f"e{name}")).output)
    await used.received("n2")
    assert not used.said("progress", "n2")
    assert not used.said("stage_done", "n1")
    denoiser.model.let_go(8)
    await used.done("n2")


async def test_a_stage_nearer_to_the_client_goes_first_and_then_the_older_task(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    for name in ("a", "b"):
        await stream.execute(ENCODE, f"e{name}", prompt=name)
        await stream.done(f"e{name}")
    await stream.execute(DENOISE, "na", source=(await stream.done("ea")).output)
    denoised = (await stream.done("na")).output
    worker.model.hold = True
    await stream.execute(DENOISE, "nb", source=(await stream.done("eb")).output)
    await stream.step("nb", 0)
    await stream.execute(ENCODE, "late-1", prompt="late-1")
    await stream.execute(ENCODE, "late-2", prompt="late-2")
    await stream.execute(DECODE, "d", source=denoised)
    await stream.received("d")
    worker.model.let_go(4)
    await stream.done("late-2")
    assert worker.model.calls[-3:] == [(Stage.DECODE, "a"), (Stage.ENCODE, "late-1"), (Stage.ENCODE, "late-2")]


async def test_a_slot_that_is_released_while_it_is_read_stays_until_the_reader_is_done(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await stream.execute(ENCODE, "e")
    encoded = await stream.done("e")
    worker.model.hold = True
    await stream.execute(DENOISE, "n", source=encoded.output)
    await stream.step("n", 0)
    await stream.release("e")
    await stream.slots_used(1)
    worker.model.let_go(4)
    await stream.done("n")
    await stream.release("n")
    await stream.slots_used(0)


async def test_a_large_file_is_uploaded_in_chunks(router: ScriptedRouter, start: Start) -> None:
    worker = await start()
    worker.model.media_bytes = (5 << 20) + 3
    stream = await worker.stream()
    artifact = await pass_through(stream, stream, stream)
    assert artifact.size == len(router.files[artifact.key]) == worker.model.media_bytes
    assert (artifact.media_type, artifact.num_frames) == ("video/mp4", 9)
    (header,) = router.uploads
    assert (header.job_id, header.task_id, header.name) == ("job", "d", "0.mp4")


async def test_input_files_reach_the_model_as_upright_rgb_pictures(router: ScriptedRouter, start: Start) -> None:
    worker = await start("encoder")
    stream = await worker.stream()
    file = io.BytesIO()
    Image.new("RGBA", (300, 200), (10, 20, 30, 128)).save(file, "PNG")
    router.files["in"] = file.getvalue()
    given = stage_pb2.InputFile(name="image", key="in", media_type="image/png")
    await stream.execute(ENCODE, "e", inputs=[given])
    await stream.done("e")
    image = worker.model.images["image"]
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (300, 200), (10, 20, 30))
