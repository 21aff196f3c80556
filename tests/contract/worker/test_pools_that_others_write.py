"""Whoever reaches Mooncake's ports writes a worker's pool at will: it costs time and makes no wrong result (I2)."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_worker import payload
from diffusion_worker.transport import DigestMismatch, Pool, Slot, private_copy
from diffusion_worker.transport.memory import _POOLS
from diffusion_worker.transport.pool import allocate
from diffusion_worker.work import stages
from diffusionpipeline.words import Stage

from .conftest import Start, running
from .scripted_router import DENOISE, Stream

ROUNDS = 30
DEADLINE = 60.0
SIZE = 1 << 20


def pool_of(stream: Stream) -> Pool:
    return _POOLS[stream.register.pool.url]


def scribble(pool: Pool) -> None:
    """Changes a byte of every payload in the pool."""
    for row in pool._rows:
        if row.slot is not None:
            row.slot.payload[-10] ^= 1


async def test_an_input_that_changes_while_it_waits_is_not_computed_with(start: Start) -> None:
    encoder = await (await start("encoder")).stream()
    worker = await start("denoiser")
    denoiser = await worker.stream()
    await running(worker, denoiser, source=await encoder.encoded())
    await denoiser.execute(DENOISE, "waiting", source=await encoder.encoded("f", prompt="f"))
    await denoiser.received("waiting")
    scribble(pool_of(denoiser))
    worker.model.let_go(4)
    failure = await denoiser.failure("waiting")
    assert failure.message.startswith("DigestMismatch")
    assert await denoiser.failed("waiting") == "TRANSFER"
    # What the other one computes with was its own already.
    await denoiser.done("n")
    assert (Stage.DENOISE, "f") not in worker.model.calls
    await denoiser.release("n")
    await denoiser.slots_used(0)


async def test_an_output_that_a_worker_reads_itself_is_checked_too(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    source = await stream.encoded("e", prompt="changed")
    scribble(pool_of(stream))
    await stream.execute(DENOISE, "n", source=source)
    assert await stream.failed("n") == "TRANSFER"
    assert (Stage.DENOISE, "changed") not in worker.model.calls


async def test_what_is_computed_with_does_not_change_under_the_models_hands(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()

    def meanwhile(stage: Stage) -> None:
        if stage is not Stage.ENCODE:
            scribble(pool_of(stream))

    denoised = []
    for before in (lambda stage: None, meanwhile):
        task = f"n{len(denoised)}"
        source = await stream.encoded(f"e{len(denoised)}", prompt="p")
        worker.model.before_stage = before
        await stream.execute(DENOISE, task, source=source)
        output = (await stream.done(task)).output
        worker.model.before_stage = lambda stage: None
        denoised.append(output.digest)
    assert denoised[0] == denoised[1]


async def test_what_changes_before_it_is_published_is_not_taken_for_what_was_made(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Pool.publish

    def publish(self: Pool, slot: Slot, *arguments: int) -> object:
        slot.payload[-10] ^= 1
        return honest(self, slot, *arguments)

    encoder, denoiser = await (await start("encoder")).stream(), await (await start("denoiser")).stream()
    monkeypatch.setattr(Pool, "publish", publish)
    await denoiser.execute(DENOISE, "n", source=await encoder.encoded())
    assert await denoiser.failed("n") == "TRANSFER"


@pytest.fixture
def vandalised(tmp_path: Path) -> Iterator[Pool]:
    """A pool that another process writes all the time: a byte of its first megabyte is 1 and 0 in turn."""
    path = tmp_path / "pool"
    with path.open("w+b") as file:
        pool = Pool(allocate(2 * SIZE, file.fileno()), incarnation="a", mode="test", url="test://")
        program = f"""
            import mmap, sys
            with open({str(path)!r}, "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
            print(flush=True)
            while True:
                memory[{SIZE // 2}] = 1
                memory[{SIZE // 2}] = 0
        """
        run = [sys.executable, "-c", textwrap.dedent(program)]
        with subprocess.Popen(run, stdout=subprocess.PIPE) as vandal:
            assert vandal.stdout is not None
            vandal.stdout.readline()
            yield pool
            vandal.kill()


def test_under_a_writer_that_never_rests_all_that_is_taken_is_as_it_was_made(vandalised: Pool) -> None:
    made = torch.zeros(SIZE - 4096, dtype=torch.uint8)
    taken = refused = 0
    end = time.monotonic() + DEADLINE
    # Until there was a writer, and a moment without him.
    while min(taken, refused) < ROUNDS:
        assert time.monotonic() < end, f"{taken} were taken and {refused} refused"
        plan = payload.measure({"made": made})
        published = stages.publish(plan, vandalised.lease(plan.nbytes, "test"), vandalised)
        try:
            copy = private_copy(published.slot, published.descriptor.digest)
        except DigestMismatch:
            refused += 1
        else:
            found = payload.read(copy, keep=True)["made"]
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, made)
            taken += 1
        vandalised.release(published.slot)


def test_a_private_copy_is_as_aligned_as_what_it_is_of_and_nobody_elses() -> None:
    pool = Pool(allocate(SIZE), incarnation="a", mode="test", url="test://")
    plan = payload.measure({"first": torch.arange(7), "second": torch.full((5, 3), 2.0, dtype=torch.bfloat16)})
    published = stages.publish(plan, pool.lease(plan.nbytes, "test"), pool)
    values = payload.read(private_copy(published.slot, published.descriptor.digest), keep=True)
    for tensor in values.values():
        assert isinstance(tensor, torch.Tensor)
        assert tensor.data_ptr() % 256 == 0
    first = values["first"]
    assert isinstance(first, torch.Tensor)
    first += 1
    again = payload.read(private_copy(published.slot, published.descriptor.digest), keep=True)
    assert torch.equal(again["first"], torch.arange(7))
    assert np.frombuffer(published.slot.payload, np.uint8).size == plan.nbytes
