"""A denoiser that shares forwards among requests takes several tasks; each begins, steps and ends for itself."""

from __future__ import annotations

from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import Stage

from .conftest import Start, Worker, running
from .scripted_router import DECODE, DENOISE, ENCODE, Stream


async def denoiser(start: Start, **settings: object) -> tuple[Worker, Stream, list[stage_pb2.Descriptor]]:
    """A worker that shares forwards, and what was encoded for four tasks."""
    given = {"batching_mode": "Requests", "max_requests": 3, **settings}
    worker = await start(**given)
    stream = await worker.stream()
    sources = []
    for number in range(4):
        await stream.execute(ENCODE, f"e{number}", seed=number)
        sources.append((await stream.done(f"e{number}")).output)
    worker.model.asks = True
    return worker, stream, sources


async def test_its_capacity_is_how_many_it_denoises_at_once(start: Start) -> None:
    for mode, capacity in (("Requests", 3), ("Guidance", 1), ("Exact", 1)):
        worker = await start("denoiser", batching_mode=mode, max_requests=3, pod_name=mode)
        assert (await worker.stream()).register.capacity == capacity
    encoder = await start("encoder", batching_mode="Requests", max_requests=3)
    assert (await encoder.stream()).register.capacity == 1


async def test_tasks_step_side_by_side_and_end_each_for_itself(start: Start) -> None:
    worker, stream, sources = await denoiser(start)
    await running(worker, stream, "short", source=sources[0], num_inference_steps=2)
    await stream.execute(DENOISE, "long", source=sources[1])
    await stream.step("long", 0)
    worker.model.let_go(1)
    await stream.step("short", 1)
    # From here they share: the long one has one step less behind it.
    worker.model.hold = False
    worker.model.let_go(100)
    await stream.done("short")
    await stream.done("long")
    assert 2 in worker.model.network.batches


async def test_it_says_what_most_of_its_forwards_were_of(start: Start) -> None:
    worker, stream, sources = await denoiser(start)
    worker.model.hold = False
    worker.model.let_go(100)
    await stream.execute(DENOISE, "t", source=sources[0])
    timings = (await stream.done("t")).timings
    assert timings.forwards.startswith(f"{type(worker.model.network).__name__} ")


async def test_one_of_them_is_cancelled_and_the_others_go_on(start: Start) -> None:
    worker, stream, sources = await denoiser(start)
    await running(worker, stream, "stays", source=sources[0])
    await stream.execute(DENOISE, "goes", source=sources[1])
    await stream.step("goes", 0)
    await stream.cancel("goes")
    await stream.heard()
    worker.model.let_go(1)
    assert await stream.failed("goes") == "CANCELLED"
    worker.model.hold = False
    worker.model.let_go(100)
    await stream.done("stays")


async def test_the_lower_in_order_leads_whoever_came_first(start: Start) -> None:
    """Of another size, so that neither is in the other's forwards."""
    worker, stream, sources = await denoiser(start)
    worker.model.nbytes = 2048
    larger = await stream.encoded("larger")
    await running(worker, stream, "first", source=sources[0], order=5.0)
    await stream.execute(DENOISE, "leads", source=larger, order=2.5)
    await stream.step("leads", 0)
    worker.model.let_go(1)
    await stream.step("first", 1)
    worker.model.let_go(4)
    await stream.done("leads")
    assert max(report.progress.step for report in stream.said("progress", "first")) == 1
    worker.model.let_go(3)
    await stream.done("first")


async def test_no_more_begin_than_there_is_room_for(start: Start) -> None:
    worker, stream, sources = await denoiser(start, max_requests=2)
    worker.model.hold = True
    for number, source in enumerate(sources[:3]):
        await stream.execute(DENOISE, f"n{number}", source=source)
    await stream.step("n0", 0)
    await stream.step("n1", 0)
    await stream.received("n2")
    worker.model.hold = False
    worker.model.let_go(100)
    for number in range(3):
        await stream.done(f"n{number}")
    assert max(worker.model.network.batches) == 2


async def test_an_exact_request_shares_nothing(start: Start) -> None:
    worker, stream, sources = await denoiser(start)
    worker.model.hold = True
    for number, source in enumerate(sources[:3]):
        await stream.execute(DENOISE, f"n{number}", source=source, exact=True)
        await stream.step(f"n{number}", 0)
    worker.model.hold = False
    worker.model.let_go(100)
    for number in range(3):
        await stream.done(f"n{number}")
    assert set(worker.model.network.batches) == {1}


async def test_what_is_to_be_alone_waits_for_the_others_and_they_for_it(start: Start) -> None:
    """A job during which a worker ended: should it end this one too, nobody else is to blame."""
    worker, stream, sources = await denoiser(start)
    worker.model.hold = True
    await stream.execute(DENOISE, "before", source=sources[0])
    await stream.step("before", 0)
    await stream.execute(DENOISE, "alone", source=sources[1], alone=True)
    await stream.received("alone")
    await stream.execute(DENOISE, "after", source=sources[2])
    await stream.received("after")
    await stream.execute(ENCODE, "piece", prompt="piece")
    worker.model.let_go(4)
    await stream.done("before")
    await stream.step("alone", 0)
    worker.model.let_go(3)
    await stream.step("alone", 3)
    assert worker.model.network.batches == [1] * 7
    worker.model.let_go(1)
    await stream.done("alone")
    await stream.step("after", 0)
    worker.model.hold = False
    worker.model.let_go(100)
    await stream.done("after")
    await stream.done("piece")


async def test_a_decode_is_made_between_two_forwards(start: Start) -> None:
    worker, stream, sources = await denoiser(start)
    await stream.execute(DENOISE, "first", source=sources[0])
    latents = (await stream.done("first")).output
    worker.model.hold = True
    await stream.execute(DENOISE, "n", source=sources[1])
    await stream.step("n", 0)
    await stream.execute(DECODE, "d", source=latents)
    await stream.received("d")
    worker.model.let_go(1)
    await stream.done("d")
    assert worker.model.calls[-1][0] is Stage.DECODE
    worker.model.hold = False
    worker.model.let_go(100)
    await stream.done("n")
