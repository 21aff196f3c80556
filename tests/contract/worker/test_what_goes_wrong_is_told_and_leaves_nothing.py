"""What goes wrong, what the router is told of it, that nothing is left behind and nothing wrong is used (I2)."""

from __future__ import annotations

import asyncio
import io

import grpc
import pytest
from PIL import Image

from diffusion_worker.ends import Incompatible
from diffusion_worker.transport.memory import _POOLS, MemoryTransport
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage

from .conftest import Start, running
from .scripted_model import busy
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter


async def test_a_cancelled_task_stops_at_its_next_step(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    worker.model.let_go()
    await stream.step("n", 1)
    await stream.cancel("n")
    await stream.execute(ENCODE, "behind")
    await worker.until_metrics('tasks_inflight{role="encoder"} 1.0')
    worker.model.let_go()
    assert await stream.failed("n") == "CANCELLED"
    await stream.done("behind")
    assert max(report.progress.step for report in stream.said("progress", "n")) == 1
    await stream.release("behind")
    await stream.release("input of n")
    await stream.slots_used(0)


async def test_a_waiting_task_is_cancelled_at_once_and_never_computed(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "waiting", prompt="waiting")
    await stream.cancel("waiting")
    assert await stream.failed("waiting") == "CANCELLED"
    worker.model.let_go(4)
    await stream.done("n")
    assert (Stage.ENCODE, "waiting") not in worker.model.calls


async def test_a_task_is_given_back_only_if_it_was_not_started(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "waiting")
    await stream.cancel("n", only_if_waiting=True)
    await stream.cancel("waiting", only_if_waiting=True)
    assert await stream.failed("waiting") == "HANDED_BACK"
    worker.model.let_go(4)
    await stream.done("n")


async def test_a_pull_that_is_under_way_is_cancelled_and_its_slot_comes_back(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling, never = asyncio.Event(), asyncio.Event()

    async def fetch(*_: object) -> int:
        pulling.set()
        await never.wait()
        return 0

    worker = await start("denoiser")
    encoder, denoiser = await (await start("encoder")).stream(), await worker.stream()
    source = await encoder.encoded()
    monkeypatch.setattr(MemoryTransport, "fetch", fetch)
    await denoiser.execute(DENOISE, "n", source=source)
    await asyncio.wait_for(pulling.wait(), 10)
    await denoiser.slots_used(1)
    await denoiser.cancel("n")
    assert await denoiser.failed("n") == "CANCELLED"
    await denoiser.slots_used(0)
    await worker.until_metrics('transfer_failures_total{kind="cancelled",role="denoiser"} 1.0')


async def test_commands_for_unknown_tasks_are_ignored(start: Start) -> None:
    stream = await (await start()).stream()
    await stream.cancel("nobody")
    await stream.release("nobody")
    await stream.encoded()


async def test_a_task_past_its_deadline_ends_at_the_next_step(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream, deadline=1.0)
    await stream.execute(ENCODE, "waiting", deadline=1.2)
    assert await stream.failed("waiting") == "DEADLINE"  # later than the other
    worker.model.let_go()
    assert await stream.failed("n") == "DEADLINE"
    await stream.execute(ENCODE, "late", deadline=0)
    assert await stream.failed("late") == "DEADLINE"


async def test_what_the_model_refuses_is_the_clients_mistake(start: Start) -> None:
    stream = await (await start()).stream()
    await stream.execute(ENCODE, "e", width=13)
    failure = await stream.failure("e")
    assert failure.kind == stage_pb2.FAILURE_KIND_INVALID_REQUEST
    assert failure.message == "width: 13 is not a multiple of 8"


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit("no")], ids=["error", "exit"])
async def test_what_the_model_raises_fails_the_task_and_not_the_worker(start: Start, error: BaseException) -> None:
    worker = await start()
    stream = await worker.stream()

    def fail(_: Stage) -> None:
        raise error

    worker.model.before_stage = fail
    await stream.execute(ENCODE, "e")
    failure = await stream.failure("e")
    assert failure.kind == stage_pb2.FAILURE_KIND_MODEL_ERROR
    assert failure.message == f"{type(error).__name__}: {error}"
    worker.model.before_stage = lambda _: None
    await stream.encoded("again")


async def test_an_output_larger_than_the_pool_is_too_large(start: Start) -> None:
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    worker.model.nbytes = 1 << 17
    await stream.execute(ENCODE, "e")
    failure = await stream.failure("e")
    assert failure.kind == stage_pb2.FAILURE_KIND_TOO_LARGE
    assert "poolSize" in failure.message
    await stream.slots_used(0)


async def test_an_output_waits_for_room_in_a_full_pool(start: Start) -> None:
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    worker.model.nbytes = 40_000
    await stream.encoded("first")
    await stream.execute(ENCODE, "second")
    worker.model.nbytes_of["small"] = 10
    await stream.encoded("third", prompt="small")
    assert not stream.said("stage_done", "second")
    await stream.release("first")
    await stream.done("second")


async def test_a_pool_that_stays_full_fails_the_task(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_worker.work.room.ROOM_SECONDS", 0.1)
    worker = await start(pool_size=1 << 16)
    stream = await worker.stream()
    worker.model.nbytes = 40_000
    await stream.encoded("first")
    await stream.execute(ENCODE, "second")
    assert await stream.failed("second") == "POOL_FULL"
    await stream.slots_used(1)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("digest", 1, "TRANSFER"),
        ("slot_generation", 99, "TRANSFER"),
        ("length", 1 << 19, "TRANSFER"),
        ("length", 1 << 40, "TOO_LARGE"),
        ("length", 3, "TRANSFER"),
        ("url", "memory://gone", "TRANSFER"),
        ("mode", "tcp", "INCOMPATIBLE"),
        ("generation", "g2", "INCOMPATIBLE"),
    ],
)
@pytest.mark.parametrize("colocated", [False, True], ids=["split", "colocated"])
async def test_a_wrong_descriptor_is_never_computed(
    start: Start, field: str, value: object, kind: str, colocated: bool
) -> None:
    made = await start("encoder", *(["denoiser"] if colocated else []))
    used = made if colocated else await start("denoiser")
    source = await (await made.stream()).encoded()
    setattr(source, field, value)
    stream = await used.stream()
    await stream.execute(DENOISE, "n", source=source)
    assert await stream.failed("n") in ((kind, "TRANSFER") if colocated else (kind,))
    assert not any(stage is Stage.DENOISE for stage, _ in used.model.calls)
    await stream.slots_used(1 if colocated else 0)


async def test_bytes_that_changed_after_they_were_published_are_a_failed_transfer(start: Start) -> None:
    encoder, denoiser = await (await start("encoder")).stream(), await (await start("denoiser")).stream()
    source = await encoder.encoded()
    _POOLS[source.url].view[source.address + 400] ^= 1
    await denoiser.execute(DENOISE, "n", source=source)
    failure = await denoiser.failure("n")
    assert failure.kind == stage_pb2.FAILURE_KIND_TRANSFER
    assert failure.message.startswith("DigestMismatch")
    await denoiser.slots_used(0)


async def test_a_stage_of_another_role_is_refused(start: Start) -> None:
    stream = await (await start("encoder")).stream()
    await stream.execute(DECODE, "d", source=stage_pb2.Descriptor())
    assert await stream.failed("d") == "INCOMPATIBLE"


async def test_an_upload_is_tried_again_while_the_router_is_away(router: ScriptedRouter, start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await stream.execute(DENOISE, "n", source=await stream.encoded())
    denoised = (await stream.done("n")).output
    router.store_failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    await stream.execute(DECODE, "d", source=denoised)
    assert len((await stream.done("d")).artifacts) == 1
    router.store_failures = [grpc.StatusCode.UNAVAILABLE] * 1000
    await stream.execute(DECODE, "never", source=denoised, deadline=0.5)
    assert await stream.failed("never") == "DEADLINE"
    router.store_failures = [grpc.StatusCode.INVALID_ARGUMENT]
    await stream.execute(DECODE, "refused", source=denoised)
    assert await stream.failed("refused") == "STORE"


async def test_input_files_that_are_no_pictures_or_too_large_are_the_clients_mistake(
    router: ScriptedRouter, start: Start
) -> None:
    stream = await (await start("encoder", max_input_bytes=1 << 20, max_input_pixels=1 << 20)).stream()
    bomb = io.BytesIO()
    Image.new("1", (5_000, 5_000)).save(bomb, "PNG")
    router.files = {"bomb": bomb.getvalue(), "text": b"not a picture", "heavy": bytes((1 << 20) + 1)}
    for name in router.files:
        given = stage_pb2.InputFile(name="image", key=name)
        await stream.execute(ENCODE, name, inputs=[given])
        assert await stream.failed(name) == "INVALID_REQUEST", name
    await stream.execute(ENCODE, "gone", inputs=[stage_pb2.InputFile(name="image", key="gone")])
    assert await stream.failed("gone") == "STORE"


async def test_heartbeats_go_on_during_a_long_computation(router: ScriptedRouter, start: Start) -> None:
    router.lease = 0.6
    worker = await start()
    stream = await worker.stream()
    seen = len(stream.said("heartbeat"))
    worker.model.before_stage = lambda _: busy(lambda: len(stream.said("heartbeat")) >= seen + 3)
    await stream.execute(ENCODE, "e")
    await stream.done("e")
    assert stream.said("heartbeat")[0].heartbeat.slots_used == 0
    await stream.until(lambda: stream.said("heartbeat")[-1].heartbeat.slots_used == 1, "slot in a heartbeat")


async def test_a_worker_that_comes_back_says_what_it_holds(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "waiting")
    await stream.cancel("nobody")
    stream.hang_up.set()
    again = await worker.stream(after=stream)
    assert again.register.incarnation == stream.register.incarnation
    held = {task.task_id: task.started for task in again.register.tasks}
    assert held == {"n": True, "waiting": False}
    assert [output.task_id for output in again.register.outputs] == ["input of n"]
    await again.step("n", 0)
    worker.model.let_go(4)
    await again.done("n")
    await again.done("waiting")


async def test_what_ends_while_the_router_is_away_is_reported_when_it_is_back(
    router: ScriptedRouter, start: Start
) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "bad", width=13)
    await stream.heard()
    await router.stop()
    worker.model.let_go(4)
    await worker.until_metrics('tasks_total{outcome="done",role="denoiser"} 1.0')
    await worker.until_metrics('outcome="invalid_request",role="encoder"} 1.0')
    await router.start()
    again = await worker.stream(after=stream)
    assert {output.task_id for output in again.register.outputs} == {"input of n", "n"}
    assert [task.task_id for task in again.register.tasks] == ["bad"]
    assert await again.failed("bad") == "INVALID_REQUEST"


async def test_a_fenced_worker_drops_all_and_comes_back_as_another(router: ScriptedRouter, start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await running(worker, stream)
    await stream.execute(ENCODE, "waiting")
    router.refusals.append(peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED, message="silent too long"))
    stream.hang_up.set()
    await worker.until_metrics('tasks_total{outcome="cancelled",role="encoder"} 1.0')
    assert len(router.streams) == 1  # compute has not stopped yet, so there is no new incarnation
    worker.model.let_go()
    again = await worker.stream(after=stream)
    assert again.register.incarnation != stream.register.incarnation
    assert not again.register.tasks
    assert not again.register.outputs
    await again.slots_used(0)
    worker.model.hold = False
    await again.execute(DENOISE, "n2", source=await again.encoded("e2"))
    await again.done("n2")


async def test_a_refusal_on_an_open_stream_fences_as_well(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await stream.encoded()
    await stream.send(refused=peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED, message="replaced"))
    again = await worker.stream(after=stream)
    assert again.register.incarnation != stream.register.incarnation


async def test_a_worker_that_the_router_cannot_use_ends_with_the_routers_words(
    router: ScriptedRouter, start: Start
) -> None:
    words = "this pipeline serves another model"
    router.refusals.append(peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_INCOMPATIBLE, message=words))
    worker = await start()
    with pytest.raises(Incompatible, match=words):
        await worker.ended()
