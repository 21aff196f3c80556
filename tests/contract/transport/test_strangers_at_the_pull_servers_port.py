"""What reaches the pull server's port, whoever sends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from contract.transport.peers import eventually, pulled, settings
from contract.transport.producer import Producer, content
from diffusion_worker.transport import EngineInitFailed, ModeMismatch, Transport, open_transport, tcp_server
from diffusion_worker.transport.seal import fingerprint
from diffusion_worker.transport.tcp_server import ANSWER, CONNECTIONS, MAGIC, REQUEST, VERSION, Status

pytestmark = pytest.mark.backends("tcp")


def connect(transport: Transport) -> socket.socket:
    address = urlsplit(transport.pool.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=5)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n" + bytes(64), b"\xff" * 4096, bytes(4096), os.urandom(4096)],
    ids=["http", "ones", "zeros", "random"],
)
async def test_garbage_is_answered_with_a_refusal_and_harms_nobody(consumer: Transport, garbage: bytes) -> None:
    with contextlib.closing(connect(consumer)) as stranger:
        stranger.sendall(garbage)
        answer = await asyncio.to_thread(stranger.recv, ANSWER.size, socket.MSG_WAITALL)
    assert ANSWER.unpack(answer) == (MAGIC, VERSION, Status.UNKNOWN_VERSION)
    descriptor = Producer(consumer).publish(1, 1000)
    assert await pulled(consumer, descriptor) == content(1, 1000)
    consumer.pool.reincarnate("done")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"incarnation": b"\0" * 16}, Status.STALE),
        ({"slot": 4_000_000_000}, Status.STALE),
        ({"generation": 2}, Status.STALE),
        ({"address": 4096}, Status.OUT_OF_RANGE),
        ({"length": 0}, Status.OUT_OF_RANGE),
        ({"length": (1 << 64) - 1}, Status.OUT_OF_RANGE),
        ({"address": (1 << 64) - 1}, Status.OUT_OF_RANGE),
    ],
    ids=str,
)
async def test_a_request_that_names_anything_else_gets_no_byte(
    consumer: Transport, wrong: dict[str, int | bytes], status: Status
) -> None:
    descriptor = Producer(consumer).publish(1, 1000)
    request: dict[str, int | bytes] = {
        "incarnation": fingerprint(descriptor.incarnation),
        "slot": descriptor.slot,
        "generation": descriptor.slot_generation,
        "address": descriptor.address,
        "length": descriptor.length,
    } | wrong
    with contextlib.closing(connect(consumer)) as stranger:
        stranger.sendall(REQUEST.pack(MAGIC, VERSION, 0, *request.values()))
        stranger.shutdown(socket.SHUT_WR)
        everything = b""
        while data := await asyncio.to_thread(stranger.recv, 4096):
            everything += data
    assert ANSWER.unpack(everything) == (MAGIC, VERSION, status)
    consumer.pool.reincarnate("done")


async def test_more_connections_than_allowed_wait_for_room(consumer: Transport) -> None:
    descriptor = Producer(consumer).publish(1, 1000)
    idle = [connect(consumer) for _ in range(CONNECTIONS)]
    pulling = asyncio.create_task(pulled(consumer, descriptor))
    await eventually(lambda: consumer.pool.slots_used == 2)
    for connection in idle:
        connection.close()
    assert await pulling == content(1, 1000)
    consumer.pool.reincarnate("done")


@pytest.fixture
def chatterbox() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


async def test_a_worker_whose_pull_server_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(**_: object) -> None:
        raise RuntimeError("can't start new thread")

    transport = await open_transport(**settings("tcp"), incarnation="a")
    monkeypatch.setattr(tcp_server, "threading", SimpleNamespace(Thread=no_thread))
    with contextlib.closing(connect(transport)):
        await eventually(lambda: transport.failure is not None)
    assert transport.failure == "the pull server ended: can't start new thread"
    await transport.close()


async def test_a_server_of_another_kind_is_a_mode_mismatch(consumer: Transport, chatterbox: socket.socket) -> None:
    descriptor = Producer(consumer).publish(1, 1000)
    port = chatterbox.getsockname()[1]

    def talk() -> None:
        connection, _ = chatterbox.accept()
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
        connection.recv(4096)
        connection.close()

    talking = asyncio.create_task(asyncio.to_thread(talk))
    other = type(descriptor)(**vars(descriptor) | {"url": f"tcp://127.0.0.1:{port}", "incarnation": "other"})
    with pytest.raises(ModeMismatch):
        await pulled(consumer, other)
    await talking
    consumer.pool.reincarnate("done")


async def test_a_port_range_that_is_taken_is_reported(consumer: Transport) -> None:
    port = urlsplit(consumer.pool.url).port
    assert port is not None
    with pytest.raises(EngineInitFailed, match=f"no free port from {port} to {port}"):
        await open_transport(**settings("tcp", 4096) | {"port_min": port, "port_max": port}, incarnation="b")
    with pytest.raises(EngineInitFailed, match="can't listen on 192"):
        await open_transport(**settings("tcp", 4096) | {"host": "192.0.2.1"}, incarnation="b")
