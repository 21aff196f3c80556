"""In a guest: which RDMA devices the kernel shows, and why one can't be used, as the real kernel tells it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.transport.peers import eventually, settings
from diffusion_worker.transport import EngineInitFailed, open_transport
from diffusion_worker.transport.devices import devices
from diffusion_worker.transport.open import choose_network
from rdma.inside.device import DEVICE

NOBODY = 65532


@pytest.fixture
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.fixture
def verbs_withheld() -> Iterator[None]:
    """As for a container that was not given the device."""
    file = Path("/dev/infiniband/uverbs0")
    mode = file.stat().st_mode
    file.chmod(0o600)
    yield
    file.chmod(mode & 0o777)


@pytest.fixture
def card_down() -> Iterator[None]:
    set_card("down")
    yield
    set_card("up")


def set_card(state: str) -> None:
    subprocess.run(["ip", "link", "set", "rdma0", state], check=True, timeout=10)


def test_an_active_device_is_chosen() -> None:
    assert [(device.name, device.usable) for device in devices()] == [(DEVICE, True)]
    for protocol, fallback in (("auto", "Allow"), ("auto", "Deny"), ("rdma", "Deny")):
        assert choose_network(protocol, fallback) == ("rdma", DEVICE)


def test_so_it_is_for_another_user_than_root(as_nobody: None) -> None:
    assert choose_network("rdma", "Deny") == ("rdma", DEVICE)


def test_one_that_can_not_be_opened_is_refused(verbs_withheld: None, as_nobody: None) -> None:
    with pytest.raises(EngineInitFailed, match=rf"{DEVICE}: /dev/infiniband/uverbs0 can't be opened"):
        choose_network("rdma", "Deny")
    assert choose_network("rdma", "Allow") == ("tcp", "")


def test_one_whose_port_is_down_is_refused(card_down: None) -> None:
    with pytest.raises(EngineInitFailed, match=rf"{DEVICE}: no port is ACTIVE \(port 1 DOWN\)"):
        choose_network("rdma", "Deny")


async def test_a_pool_whose_port_was_down_for_a_moment_is_lost() -> None:
    """Mooncake's engines do not get over it (see `two_nodes`): the worker must come back as a new one."""
    transport = await open_transport(**settings("mooncake-rdma", 1 << 20), incarnation="a")
    assert transport.failure is None
    set_card("down")
    set_card("up")
    await eventually(lambda: transport.failure is not None)
    assert f"port 1 of {DEVICE}" in str(transport.failure)
    await transport.close()


def test_memory_that_may_not_be_locked_is_reported_with_its_remedy() -> None:
    """Another user than root, with Debian's limit on locked memory, and a pool above it."""
    program = f"""
import asyncio
from diffusion_worker.transport import open_transport
asyncio.run(open_transport(**{settings("mooncake-rdma", 64 << 20)!r}, incarnation="a"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20)),
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "can't register a pool of 67108864 bytes" in done.stderr
    assert "raise the locked-memory limit (RDMA needs IPC_LOCK or an unlimited memlock)" in done.stderr
