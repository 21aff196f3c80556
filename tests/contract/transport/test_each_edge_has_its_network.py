"""A denoiser may be fed over TCP by encoders that have no device, and be read over RDMA by decoders. An edge that
forbids TCP never has it (I10).

RDMA is played: an engine that is started for it is told that it may use TCP. Which engine was started for which network
is the worker's doing, and that is what is tested; `tests/rdma` has real verbs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contract.transport.peers import pulled, settings
from diffusion_worker.settings import Settings
from diffusion_worker.transport import (
    Descriptor,
    EngineInitFailed,
    ModeMismatch,
    Transport,
    open_proven,
    open_transport,
)
from diffusion_worker.transport.devices import Device
from diffusion_worker.transport.mooncake import MooncakeTransport
from diffusionpipeline.words import Role

PLAYED = """
import importlib, os
from diffusion_worker.engine import guard, program
if os.environ.pop("MC_FORCE_HCA", ""):
    os.environ["MC_FORCE_TCP"] = "1"
guard._import = lambda protocol: importlib.import_module("mooncake.engine")
program.main()
"""
TCP, RDMA = "mooncake-tcp", "mooncake-rdma"
PAYLOAD = bytes(range(256)) * 5000

Open = Callable[..., Awaitable[MooncakeTransport]]


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    monkeypatch.setattr("diffusion_worker.transport.engine_process.PROGRAM", PLAYED)
    monkeypatch.setattr("diffusion_worker.transport.open.devices", lambda *_: [Device("mlx5_0", None)])
    transports: list[Transport] = []

    async def opened(*, kept: bool = True, **given: Any) -> MooncakeTransport:
        values = settings("mooncake-rdma", 8 << 20) | {"incarnation": os.urandom(8).hex()} | given
        transport = await open_transport(**values)
        assert isinstance(transport, MooncakeTransport)
        if kept:
            transports.append(transport)
        return transport

    yield opened
    for transport in transports:
        await transport.close()


def published(transport: Transport) -> Descriptor:
    slot = transport.pool.lease(len(PAYLOAD), "test")
    slot.payload[:] = PAYLOAD
    return transport.pool.publish(slot, len(PAYLOAD))


def networks(transport: MooncakeTransport) -> tuple[str, set[str]]:
    """Of the process that serves, and of those that pull."""
    pulling = {_network(link.starting.result().pid) for link in transport._links.values()}
    return _network(transport._server.pid), pulling


def _network(pid: int) -> str:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert (b"MC_FORCE_HCA=1" in environment) != (b"MC_FORCE_TCP=1" in environment)
    return RDMA if b"MC_FORCE_HCA=1" in environment else TCP


async def test_what_comes_by_one_network_goes_on_by_another(opened: Open) -> None:
    encoder, decoder = await opened(protocol="tcp"), await opened(protocol="rdma")
    denoiser = await opened(protocol="rdma", pulls="tcp")
    assert (denoiser.mode, denoiser.pulls, denoiser.pool.mode) == (RDMA, TCP, RDMA)
    conditioning, latents = published(encoder), published(denoiser)
    assert (conditioning.mode, latents.mode) == (TCP, RDMA)
    assert await pulled(denoiser, conditioning) == PAYLOAD
    assert networks(denoiser) == (RDMA, {TCP})
    assert await pulled(decoder, latents) == PAYLOAD
    assert networks(decoder) == (RDMA, {RDMA})
    for transport, descriptor in ((decoder, conditioning), (encoder, latents)):
        with pytest.raises(ModeMismatch, match="this worker pulls by"):
            await pulled(transport, descriptor)


async def test_both_of_its_networks_are_proven_before_it_is_believed(opened: Open) -> None:
    asked: list[dict[str, Any]] = []

    async def opening(**given: Any) -> Transport:
        asked.append(given)
        return await opened(kept=False, **given)

    transport, proof = await open_proven(opening, protocol="rdma", pulls="tcp", fallback="Deny")
    assert (transport.mode, transport.pulls) == (RDMA, TCP)
    assert [(one["protocol"], one.get("pulls")) for one in asked] == [("tcp", None), ("rdma", "tcp")]
    assert proof.bytes_per_second > 0
    assert transport.pool.slots_used == 0
    await transport.close()


@pytest.mark.parametrize(("protocol", "pulls"), [("tcp", "rdma"), ("rdma", "tcp")])
async def test_an_edge_of_rdma_that_does_not_connect_is_never_tcp_where_that_is_forbidden(
    opened: Open, monkeypatch: pytest.MonkeyPatch, protocol: str, pulls: str
) -> None:
    monkeypatch.setattr(
        "diffusion_worker.transport.engine_process.PROGRAM", PLAYED.replace('"1"', '"1"; raise OSError')
    )
    with pytest.raises(EngineInitFailed):
        await open_proven(partial(opened, kept=False), protocol=protocol, pulls=pulls, fallback="Deny")


@pytest.mark.parametrize(
    ("roles", "serves", "pulls"),
    [
        (["encoder"], "tcp", ""),
        (["denoiser"], "rdma", "tcp"),
        (["decoder"], "rdma", ""),
        (["encoder", "denoiser"], "rdma", ""),
        (["denoiser", "decoder"], "tcp", ""),
        (["encoder", "denoiser", "decoder"], "auto", ""),
    ],
)
def test_a_worker_serves_by_the_edge_that_leaves_it_and_pulls_by_the_one_that_comes(
    roles: list[str], serves: str, pulls: str
) -> None:
    given = Settings(
        roles=[Role(role) for role in roles],  # type: ignore[misc]
        protocol="auto",
        encoder_to_denoiser="tcp",
        denoiser_to_decoder="rdma",
    )
    assert (given.serves, given.pulls) == (serves, pulls)


def test_without_a_word_of_edges_there_is_one_network() -> None:
    for roles in (["encoder"], ["denoiser"], ["decoder"]):
        given = Settings(roles=[Role(role) for role in roles], protocol="rdma")  # type: ignore[misc]
        assert (given.serves, given.pulls) == ("rdma", "")
