"""What a worker has built to pull from a peer goes when the router gives that one up; what it still does goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from contract.transport.peers import settings
from diffusion_worker.transport import Descriptor, Slot
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.transport.pull import Deadline
from diffusionpipeline.v1 import peer_pb2
from testbed.waiting import eventually

from .conftest import Start
from .scripted_router import DENOISE

DEADLINE = 20.0


async def test_the_engine_that_pulled_from_it_ends_and_another_peers_is_pulled_from_as_before(start: Start) -> None:
    def on(backend: str) -> dict[str, object]:
        return {name: value for name, value in settings(backend, 4 << 20).items() if name != "host"}

    others = engines()
    makers = [await (await start("encoder", **on("mooncake-tcp"))).stream() for _ in range(2)]
    denoiser = await (await start("denoiser", **on("mooncake-tcp"))).stream()
    for number, maker in enumerate(makers):
        await denoiser.execute(DENOISE, f"n{number}", source=await maker.encoded())
        await denoiser.done(f"n{number}")
    # Of three workers: what serves each one's pool, each one's spare, and the two that the denoiser pulls by.
    await eventually(lambda: len(engines() - others) == 8, DEADLINE, "every worker has a spare engine again")
    before = engines() - others
    await denoiser.send(peer_gone=peer_pb2.PeerGone(incarnation=makers[0].register.incarnation))
    await eventually(lambda: len(before - engines()) == 1, DEADLINE, "the one that pulled from it has ended")
    await denoiser.execute(DENOISE, "after", source=await makers[1].encoded("f"))
    await denoiser.done("after")
    assert len(engines() - others) == 7


async def test_a_pull_that_is_under_way_ends_first(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer may be cut off from the router alone."""
    pulling, go_on, dropped = asyncio.Event(), asyncio.Event(), list[str]()
    fetch = MemoryTransport.fetch

    async def held(self: MemoryTransport, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        pulling.set()
        await go_on.wait()
        return await fetch(self, descriptor, slot, deadline)

    encoder, denoiser = await (await start("encoder")).stream(), await (await start("denoiser")).stream()
    gone = encoder.register.incarnation
    source = await encoder.encoded()
    monkeypatch.setattr(MemoryTransport, "fetch", held)
    monkeypatch.setattr(MemoryTransport, "drop_peer", lambda _, incarnation: dropped.append(incarnation))
    await denoiser.execute(DENOISE, "n", source=source)
    await pulling.wait()
    await denoiser.send(peer_gone=peer_pb2.PeerGone(incarnation=gone))
    await denoiser.heard()
    assert not dropped
    go_on.set()
    await denoiser.done("n")
    assert dropped == [gone]
    # One that was sent before the router knew.
    await denoiser.execute(DENOISE, "late", source=source)
    await denoiser.done("late")
    assert dropped == [gone, gone]


def engines() -> set[int]:
    """Engine processes of this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
            if int(parent) == os.getpid() and b"diffusion_worker.engine" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found
