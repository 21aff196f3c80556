"""How errors and requests are translated, and that no report and no output is lost or kept without bound."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from diffusion_worker.link.stream import MAX_REPORTS, RouterStream
from diffusion_worker.model import InvalidRequest, ModelError
from diffusion_worker.model.types import Workflow, is_resumable
from diffusion_worker.payload import PayloadError
from diffusion_worker.transport import DigestMismatch, ModeMismatch, Pool, PoolFull, Slot, TooLarge
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.work.outcomes import MAX_FAILURES, Failures, Outputs
from diffusion_worker.work.store import StoreRefused
from diffusion_worker.work.tasks import DeadlinePassed, classify, parameters
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import word


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("width: odd"), "invalid_request"),
        (ModelError("no"), "model_error"),
        (MemoryError(), "model_error"),
        (DigestMismatch("no"), "transfer"),
        (PayloadError("no"), "transfer"),
        (ModeMismatch("no"), "incompatible"),
        (TooLarge("no"), "too_large"),
        (PoolFull("no"), "pool_full"),
        (StoreRefused("no"), "store"),
        (DeadlinePassed("no"), "deadline"),
    ],
)
def test_each_error_has_a_kind_that_tells_the_router_what_to_do(error: Exception, kind: str) -> None:
    assert word(stage_pb2.FailureKind, classify(error)[0]) == kind


def test_a_failure_never_carries_a_page_of_text() -> None:
    assert len(classify(RuntimeError("x" * 10_000))[1]) < 600


def test_what_a_client_did_not_say_is_left_to_the_model() -> None:
    made = parameters(stage_pb2.JobParameters(prompt="p", seed=3), {})
    assert (made.width, made.num_inference_steps, made.guidance_scale, made.negative_prompt) == (None,) * 4
    assert (made.output_format, made.extra) == ("png", {})
    message = stage_pb2.JobParameters(prompt="p", seed=3, guidance_scale=0.0, negative_prompt="")
    message.extra["max_sequence_length"].int_value = 77
    message.extra["clean_caption"].bool_value = False
    made = parameters(message, {})
    assert (made.guidance_scale, made.negative_prompt) == (0.0, "")
    assert made.extra == {"max_sequence_length": 77, "clean_caption": False}
    message.extra["nothing"].SetInParent()
    with pytest.raises(InvalidRequest, match="extra"):
        parameters(message, {})


@pytest.mark.parametrize(
    ("inputs", "resumable"),
    [
        ((), True),
        (("image",), False),
        (("image", "mask_image"), True),
        (("image", "controls"), False),
        (("image", "image", "controls", "ip_adapters"), True),
        (("beside",), True),
    ],
)
def test_whether_a_request_can_be_parked_is_said_by_the_use_that_takes_most_of_its_inputs(
    inputs: tuple[str, ...], resumable: bool
) -> None:
    uses = {
        (): True,
        ("image",): False,
        ("image", "mask_image"): True,
        ("controls",): True,
        ("image", "controls"): False,
        ("image", "controls", "ip_adapters"): True,
    }
    workflows = [
        Workflow(images=frozenset(images), encoding_reads=None, resumable=parks) for images, parks in uses.items()
    ]
    assert is_resumable(workflows, frozenset(inputs)) is resumable


def test_a_request_that_no_use_is_for_cannot_be_parked() -> None:
    workflows = [Workflow(images=frozenset({"image"}), encoding_reads=None, resumable=True)]
    assert not is_resumable(workflows, frozenset())
    assert not is_resumable([], frozenset())


def _progress(step: int, task_id: str = "t") -> peer_pb2.PeerReport:
    return peer_pb2.PeerReport(progress=peer_pb2.Progress(task_id=task_id, step=step, steps=9))


@pytest.fixture
async def stream() -> AsyncIterator[RouterStream]:
    """With an open queue that nobody empties."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        stream = RouterStream(channel, lambda _: None)
        stream._open = True
        yield stream


async def test_progress_that_waits_is_brought_up_to_date_in_its_place(stream: RouterStream) -> None:
    stream.send(_progress(1))
    stream.send(peer_pb2.PeerReport(stage_failed=peer_pb2.StageFailed(task_id="u")))
    stream.send(_progress(2))
    stream.send(_progress(5, "other"))
    assert [report.progress.step for report in stream._reports] == [2, 0, 5]


async def test_a_full_queue_drops_progress_and_nothing_else(stream: RouterStream) -> None:
    for number in range(MAX_REPORTS):
        stream.send(peer_pb2.PeerReport(input_received=peer_pb2.InputReceived(task_id=str(number))))
    stream.send(_progress(1))
    assert len(stream._reports) == MAX_REPORTS
    assert not stream._lost.is_set()
    # A report that must not be lost ends the stream instead: the next registration says it.
    stream.send(peer_pb2.PeerReport(stage_failed=peer_pb2.StageFailed(task_id="u")))
    assert len(stream._reports) == MAX_REPORTS
    assert stream._lost.is_set()


async def test_nothing_is_queued_while_there_is_no_stream(stream: RouterStream) -> None:
    stream._open = False
    stream.send(_progress(1))
    assert not stream._reports


@pytest.fixture
def pool() -> Pool:
    return MemoryTransport(pool_size=1 << 16, incarnation="me").pool


def _output(pool: Pool, task_id: str) -> tuple[peer_pb2.StageDone, Slot]:
    slot = pool.lease(10, task_id)
    made = stage_pb2.Descriptor(slot=slot.index, slot_generation=slot.generation, digest=1)
    return peer_pb2.StageDone(task_id=task_id, output=made), slot


def test_an_output_is_kept_until_it_is_released_and_nobody_reads_it(pool: Pool) -> None:
    outputs = Outputs(pool.release)
    report, slot = _output(pool, "t")
    outputs.keep(report, slot)
    reader = outputs.read(report.output)
    assert reader is not None
    outputs.release("t")
    outputs.release("t")
    assert (len(outputs), pool.slots_used) == (0, 1)
    outputs.done_reading(reader)
    assert pool.slots_used == 0
    assert outputs.read(report.output) is None


def test_an_output_is_read_only_by_the_very_descriptor_that_was_reported(pool: Pool) -> None:
    outputs = Outputs(pool.release)
    report, slot = _output(pool, "t")
    outputs.keep(report, slot)
    asked = stage_pb2.Descriptor()
    asked.CopyFrom(report.output)
    asked.digest = 2
    assert outputs.read(asked) is None


def test_failures_are_remembered_up_to_a_bound() -> None:
    failures = Failures()
    for number in range(MAX_FAILURES + 5):
        held = peer_pb2.HeldTask(task_id=str(number))
        failures.add(held, peer_pb2.PeerReport(stage_failed=peer_pb2.StageFailed(task_id=str(number))))
    assert failures.report("4") is None
    assert len(failures.unsent()) == MAX_FAILURES
    failures.sent("5")
    assert "5" not in [task.task_id for task, _ in failures.unsent()]
    assert failures.report("5") is not None
