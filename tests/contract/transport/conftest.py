"""One consumer in this process, and producers to pull from, for each back end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.transport.peers import (
    BACKENDS,
    IPV6,
    TALKING,
    LocalPeer,
    Peer,
    ProcessPeer,
    StartPeer,
    eventually,
    here,
    settings,
)
from diffusion_worker.transport import Transport, open_transport


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("backends")
        if not any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")):
            chosen = here(only.args if only else BACKENDS)
            of_ipv6 = [pytest.param(f"{each}{IPV6}", marks=pytest.mark.thorough) for each in chosen if each in TALKING]
            metafunc.parametrize("backend", [*chosen, *of_ipv6])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "backends(*names): the back ends that a transport test is about")


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture(scope="session")
def steady_peers(bytecode: Path) -> Iterator[Callable[[str], ProcessPeer]]:
    """A healthy producer for each back end, shared by the tests that do it no harm."""
    started: dict[str, ProcessPeer] = {}

    def peer(backend: str) -> ProcessPeer:
        if backend not in started:
            started[backend] = ProcessPeer(settings(backend), bytecode)
        return started[backend]

    yield peer
    for peer_ in started.values():
        peer_.kill_now()


@pytest.fixture
async def healthy(backend: str, steady_peers: Callable[[str], ProcessPeer]) -> AsyncIterator[Peer]:
    """A producer that the test must leave as it found it, published slots aside."""
    if backend != "memory":
        yield steady_peers(backend)
        return
    local = await LocalPeer.start(settings(backend))
    yield local
    await local.kill()


@pytest.fixture
async def start_peer(backend: str, bytecode: Path) -> AsyncIterator[StartPeer]:
    """Starts producers that the test may kill and freeze."""
    started: list[Any] = []

    async def start() -> Any:
        made = (
            await LocalPeer.start(settings(backend))
            if backend == "memory"
            else ProcessPeer(settings(backend), bytecode)
        )
        started.append(made)
        return made

    yield start
    for peer in started:
        if isinstance(peer, ProcessPeer):
            peer.thaw()
        await peer.kill()


@pytest.fixture
async def consumer(backend: str) -> AsyncIterator[Transport]:
    """Whatever a test does, all its slots must come back."""
    transport = await open_transport(**settings(backend), incarnation=os.urandom(16).hex())
    yield transport
    await eventually(lambda: transport.pool.slots_used == 0)
    assert transport.pool.bytes_used == transport.pool.quarantined == 0
    assert transport.failure is None
    await transport.close()
