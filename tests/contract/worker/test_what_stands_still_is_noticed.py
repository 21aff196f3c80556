"""I13: a worker of which something stands still says so, gives all its work away, and ends."""

from __future__ import annotations

import pytest

from diffusion_worker.ends import Stalled, TransportFailed
from diffusion_worker.model.calls import Call
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.transport.memory import MemoryTransport
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage
from testbed.waiting import eventually

from .conftest import Start, Worker, running
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter, Stream

BOUND = {"stall_seconds": 2.0, "stall_first_seconds": 2.0}


async def stalled(worker: Worker, words: str) -> None:
    """Until the worker has ended because of what these words say."""
    with pytest.raises(Stalled, match=words):
        await worker.ended()


async def given_away(stream: Stream, blamed: str, *others: str) -> None:
    for task_id in others:
        assert await stream.failed(task_id) == "HANDED_BACK"
    assert await stream.failed(blamed) == "STALLED"
    first = next(report for report in stream.reports if report.WhichOneof("report") == "stage_failed")
    beat = next(report for report in stream.said("heartbeat") if report.heartbeat.draining)
    assert stream.reports.index(beat) < stream.reports.index(first), "else the router would send them here again"


async def test_i13_a_step_that_never_ends_makes_the_worker_unhealthy_and_its_work_somebody_elses(start: Start) -> None:
    worker = await start(**BOUND)
    stream = await worker.stream()
    await running(worker, stream)
    source = output(stream, "input of n")
    await stream.execute(ENCODE, "encode behind")
    await stream.execute(DENOISE, "denoise behind", source=source)
    await given_away(stream, "n", "encode behind", "denoise behind")
    failure = await stream.failure("n")
    assert "stands still" in failure.message
    for path in ("/healthz", "/readyz"):
        answer = await worker.get(path)
        assert answer.status_code == 503
        assert "stands still" in answer.text
        assert "(task n)" in answer.text
    await worker.until_metrics('tasks_total{outcome="stalled",role="denoiser"} 1.0')
    await stream.execute(ENCODE, "new")
    assert await stream.failed("new") == "HANDED_BACK"
    await stream.release("input of n")
    await stream.until(lambda: bool(stream.said("drained")), "drained")
    await stalled(worker, "denoising up to its first forward")


def output(stream: Stream, task_id: str) -> stage_pb2.Descriptor:
    return stream.said("stage_done", task_id)[-1].stage_done.output


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DECODE])
async def test_an_encode_or_decode_that_never_ends_is_noticed(start: Start, stage: Stage) -> None:
    worker = await start(**BOUND)
    stream = await worker.stream()
    await stream.execute(DENOISE, "n", source=await stream.encoded())
    latents = (await stream.done("n")).output
    worker.model.before_stage = lambda _: worker.model.wait()
    worker.model.hold = True
    if stage is Stage.ENCODE:
        await stream.execute(ENCODE, "hung")
    else:
        await stream.execute(DECODE, "hung", source=latents)
    await eventually(lambda: worker.model.held, 10, "it stands")
    await stream.execute(DENOISE, "behind", source=output(stream, "e"))
    await given_away(stream, "hung", "behind")
    await stream.release("e")
    await stream.release("n")
    await stalled(worker, f"^{stage.value} ")


async def test_a_forward_that_never_ends_is_blamed_on_those_who_share_it_and_on_nobody_else(start: Start) -> None:
    worker = await start("denoiser", batching_mode="Requests", **BOUND)
    stream, encoder = await worker.stream(), await (await start("encoder")).stream()
    source = await encoder.encoded()
    worker.model.asks = worker.model.hold = True
    await stream.execute(DENOISE, "first", source=source)
    await eventually(lambda: worker.model.held, 10, "the first is in its first forward")
    for task_id in ("one", "other"):
        await stream.execute(DENOISE, task_id, source=source)
    await stream.execute(DENOISE, "apart", source=source, exact=True)
    for task_id in ("one", "other", "apart"):
        await stream.step(task_id, 0)
    worker.model.let_go()
    # The next forward is shared by those that want company: it never ends.
    assert await stream.failed("one") == "STALLED"
    assert await stream.failed("other") == "STALLED"
    assert await stream.failed("first") == "STALLED"
    assert await stream.failed("apart") == "HANDED_BACK"
    await stalled(worker, r"forward \(AddOne 1024, 3 at once\).*task first, one, other")


async def test_steps_that_go_on_are_no_stall_however_many_there_are(start: Start) -> None:
    worker = await start(**BOUND)
    stream = await worker.stream()
    worker.model.step_seconds = 0.3
    await stream.execute(DENOISE, "n", source=await stream.encoded(num_inference_steps=14))
    await stream.done("n")
    assert (await worker.get("/healthz")).status_code == 200


async def test_a_worker_that_has_nothing_to_do_does_not_stand_still(start: Start) -> None:
    worker = await start(**BOUND)
    stream = await worker.stream()
    seen = len(stream.said("heartbeat"))
    await stream.until(lambda: len(stream.said("heartbeat")) > seen, "heartbeat, after a third of a lease")
    assert (await worker.get("/healthz")).status_code == 200


async def test_how_long_nothing_has_been_heard_of_a_stage_can_be_scraped(start: Start) -> None:
    worker = await start(stall_seconds=60.0)
    stream = await worker.stream()
    await worker.until_metrics('diffusion_worker_standing_seconds{role="encoder+denoiser+decoder"} 0.0')
    await running(worker, stream)

    async def stands() -> bool:
        return 'standing_seconds{role="encoder+denoiser+decoder"} 0.0' not in (await worker.get("/metrics")).text

    await eventually(stands, 10, "it is told how long the step takes")


async def test_a_compute_thread_that_ends_is_noticed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await start("denoiser")
    stream, encoder = await worker.stream(), await (await start("encoder")).stream()
    source = await encoder.encoded()
    worker.model.asks = worker.model.hold = True

    def run_own(_: object, calls: list[Call]) -> None:
        calls[0].run()
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(Forwards, "run_own", run_own)
    for task_id in ("n", "behind"):
        await stream.execute(DENOISE, task_id, source=source)
    await stream.received("behind")
    worker.model.let_go()
    await given_away(stream, "n", "behind")
    await stalled(worker, r"the compute thread ended during forward \(AddOne 1024, 1 at once\) \(task n\)")


async def test_what_was_made_before_can_be_pulled_from_a_worker_that_ends(start: Start) -> None:
    worker, other = await start(**BOUND), await start("denoiser")
    stream, elsewhere = await worker.stream(), await other.stream()
    source = await stream.encoded()
    await running(worker, stream, source=source)
    await given_away(stream, "n")
    await elsewhere.execute(DENOISE, "again", source=source)
    await elsewhere.done("again")
    assert not stream.said("drained")
    await stream.release("e")
    await stalled(worker, "task n")


async def test_a_worker_that_was_fenced_while_a_stage_stands_still_ends_too(
    router: ScriptedRouter, start: Start
) -> None:
    worker = await start(**BOUND)
    stream = await worker.stream()
    await running(worker, stream)
    router.refusals.append(peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED, message="silent too long"))
    stream.hang_up.set()
    await stalled(worker, "task n")


async def test_a_worker_that_stands_still_ends_though_the_router_is_away(router: ScriptedRouter, start: Start) -> None:
    worker = await start("encoder", **BOUND)
    stream = await worker.stream()
    worker.model.before_stage = lambda _: worker.model.wait()
    worker.model.hold = True
    await stream.execute(ENCODE, "hung")
    await stream.step("hung", 0)
    await router.stop()
    await stalled(worker, "task hung")


async def test_a_drain_ends_when_what_it_waits_for_stands_still(start: Start) -> None:
    worker = await start(drain_seconds=600.0, **BOUND)
    stream = await worker.stream()
    await running(worker, stream)
    worker.stop.set()
    await stream.release("input of n")
    await given_away(stream, "n")
    await stalled(worker, "task n")


async def test_a_worker_whose_pool_can_no_longer_be_served_hands_back_what_it_runs(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "behind")
    await stream.heard()
    monkeypatch.setattr(MemoryTransport, "failure", "the engine died")
    assert await stream.failed("n") == "HANDED_BACK"
    assert await stream.failed("behind") == "HANDED_BACK"
    await stream.until(lambda: bool(stream.said("drained")), "drained")
    with pytest.raises(TransportFailed, match="the engine died"):
        await worker.ended()
