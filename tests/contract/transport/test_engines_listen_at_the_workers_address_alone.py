"""Mooncake listens on every address of a machine, and lets whoever connects write the pool: what is made of that."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contract.transport.peers import MOONCAKE, settings
from diffusion_worker.engine import ports
from diffusion_worker.transport.engine_process import EngineProcess, EngineSettings
from diffusion_worker.transport.pool import allocate

SIZE = 1 << 20
LISTENING = "0A"
LOCAL = ("127.0.0.1", "127.0.0.3")
# This machine's, in a network; as a pod has its own.
OWN = next((str(address) for _, address in ports._interfaces4() if not address.is_loopback), "")

pytestmark = pytest.mark.backends(*MOONCAKE)
networked = pytest.mark.usefixtures("network")


@pytest.fixture
def network() -> None:
    assert OWN, "this machine has no IPv4 address but loopback's: connect it to a network"


@contextlib.asynccontextmanager
async def engine(host: str, *, serves: bool) -> AsyncIterator[EngineProcess]:
    file = os.memfd_create("test-pool")
    allocate(SIZE, file)
    given = settings("mooncake-tcp")
    chosen = EngineSettings(host, "tcp", "", given["port_min"], given["port_max"])
    started = await EngineProcess.start(file, SIZE, chosen, 0.5, serves=serves)
    try:
        yield started
    finally:
        await started.kill()
        os.close(file)


def listening(process: int) -> set[int]:
    """The ports on which a process takes connections."""
    owned = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and f"socket:[{rest[5]}]" in owned:
                found.add(int(local.rpartition(":")[2], 16))
    assert len(found) == 2, "one for what is asked, one for bytes"
    return found


def lets_in(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@networked
async def test_a_pods_engine_is_reached_by_the_pods_address_and_by_no_other() -> None:
    async with engine(OWN, serves=True) as started:
        for port in listening(started.pid):
            assert lets_in(OWN, port)
            assert not any(lets_in(address, port) for address in LOCAL)


@networked
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_local_workers_engine_is_reached_from_no_network(host: str) -> None:
    async with engine(host, serves=True) as started:
        for port in listening(started.pid):
            assert lets_in(host, port)
            assert not lets_in(OWN, port)


@networked
async def test_an_engine_that_only_reads_is_reached_from_no_network() -> None:
    async with engine(OWN, serves=False) as started:
        for port in listening(started.pid):
            assert not lets_in(OWN, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_addresses_are_of_the_loopback_interface(host: str) -> None:
    assert ports.interface(host) == "lo"


def test_addresses_of_every_interface_are_found() -> None:
    for name, address in (*ports._interfaces4(), *ports._interfaces6()):
        assert ports.interface(str(address)) == name


def test_an_address_that_no_interface_has_is_refused() -> None:
    with pytest.raises(OSError, match=r"no network interface has the address 192\.0\.2\.77"):
        ports.interface("192.0.2.77")


@networked
@pytest.mark.parametrize(("host", "taken"), [(OWN, {OWN}), ("127.0.0.1", set(LOCAL)), ("", set(LOCAL))])
def test_both_versions_of_ip_are_confined(host: str, taken: set[str]) -> None:
    with confined(host) as port:
        assert {address for address in (*LOCAL, OWN) if lets_in(address, port)} == taken
        assert lets_in("::1", port) is (host != OWN)


@contextlib.contextmanager
def confined(host: str) -> Iterator[int]:
    """The port of another process, which listens on all addresses of both versions before it is confined."""
    program = f"""
import socket
from diffusion_worker.engine import ports
listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
ports.confine({host!r})
print(listener.getsockname()[1], flush=True)
input()
"""
    run = [sys.executable, "-P", "-c", program]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.communicate("\n")
