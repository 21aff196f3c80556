"""Mooncake listens on every address of a machine, and lets whoever connects write the pool: whom the kernel lets through."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.transport.peers import MOONCAKE, settings
from diffusion_worker.transport.engine_process import EngineProcess, EngineSettings
from diffusion_worker.transport.pool import allocate

SIZE = 1 << 20
HOST, OTHER = "127.0.0.2", "127.0.0.3"
LISTENING = "0A"
pytestmark = pytest.mark.backends(*MOONCAKE)


@pytest.fixture
async def engines() -> AsyncIterator[dict[bool, EngineProcess]]:
    """One that serves a pool, and one that only reads from others."""
    file = os.memfd_create("test-pool")
    allocate(SIZE, file)
    started = {}
    for serves in (True, False):
        ports = settings("mooncake-tcp")
        chosen = EngineSettings(HOST, "tcp", "", ports["port_min"], ports["port_max"])
        started[serves] = await EngineProcess.start(file, SIZE, chosen, 0.5, serves=serves)
    yield started
    for engine in started.values():
        await engine.kill()
    os.close(file)


def listening(process: int) -> set[int]:
    """The ports on which a process takes connections."""
    owned = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        owned.add(os.readlink(file))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and f"socket:[{rest[5]}]" in owned:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def lets_in(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except (TimeoutError, ConnectionRefusedError):  # what is sent is dropped; or it has no IPv6
        return False
    return True


async def test_an_engine_that_serves_takes_what_is_sent_to_its_address(engines: dict[bool, EngineProcess]) -> None:
    ports = listening(engines[True].pid)
    assert len(ports) == 2
    for port in ports:
        assert lets_in(HOST, port)
        assert not lets_in(OTHER, port)
        assert not lets_in("127.0.0.1", port)
        assert not lets_in("::1", port)


async def test_an_engine_that_only_reads_takes_nothing(engines: dict[bool, EngineProcess]) -> None:
    ports = listening(engines[False].pid)
    assert len(ports) == 2
    for port in ports:
        for address in (HOST, OTHER, "127.0.0.1", "::1"):
            assert not lets_in(address, port)


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("localhost", {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", None)}),
        ("", set()),
    ],
)
def test_addresses_of_both_versions_and_names_are_understood(host: str, taken: set[str]) -> None:
    program = f"""
        import socket
        from diffusion_worker.engine.ports import confine
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        confine({host!r})
        print(listener.getsockname()[1], flush=True)
        input()
    """
    run = [sys.executable, "-P", "-c", textwrap.dedent(program)]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = {address for address in ("127.0.0.1", OTHER, "::1") if lets_in(address, port)}
        process.stdin.close()
    assert found == taken
