"""What reaches the pull server's port, whoever sends it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from contract.transport.peers import eventually, pulled, settings
from contract.transport.producer import Producer, content
from diffusion_worker.transport import (
    Descriptor,
    EngineInitFailed,
    ModeMismatch,
    PeerDead,
    Transport,
    open_transport,
    tcp_server,
)
from diffusion_worker.transport.seal import fingerprint
from diffusion_worker.transport.tcp import ATTEMPTS
from diffusion_worker.transport.tcp_server import (
    ANSWER,
    CONNECTIONS,
    MAGIC,
    REQUEST,
    VERSION,
    Status,
    on_the_wire,
)
from testbed import waiting

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


def ask(connection: socket.socket, descriptor: Descriptor, **wrong: int) -> None:
    request = {
        "slot": descriptor.slot,
        "generation": descriptor.slot_generation,
        "address": descriptor.address,
        "length": descriptor.length,
    } | wrong
    connection.sendall(REQUEST.pack(MAGIC, VERSION, 0, fingerprint(descriptor.incarnation), *request.values()))


def taken(connection: socket.socket, nbytes: int) -> Status:
    """What a pull is answered, once all of it has come."""
    answer = connection.recv(ANSWER.size, socket.MSG_WAITALL)
    status = Status(ANSWER.unpack(answer)[2])
    if status is Status.OK:
        assert len(connection.recv(on_the_wire(nbytes), socket.MSG_WAITALL)) == on_the_wire(nbytes)
    return status


def hung_up(connection: socket.socket) -> bool:
    """Waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    connections: list[socket.socket] = []
    yield connections
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("said", [b"", b"DPTP"], ids=["silent", "half a request"])
async def test_a_pull_does_not_wait_for_strangers(consumer: Transport, crowd: list[socket.socket], said: bytes) -> None:
    descriptor = Producer(consumer).publish(1, 1000)
    for _ in range(2 * CONNECTIONS):
        crowd.append(connect(consumer))
        crowd[-1].sendall(said)
    assert await pulled(consumer, descriptor) == content(1, 1000)
    consumer.pool.reincarnate("done")


async def test_strangers_take_no_place_of_the_known(consumer: Transport, crowd: list[socket.socket]) -> None:
    descriptor = Producer(consumer).publish(1, 1000)
    with contextlib.closing(connect(consumer)) as known:
        for _ in range(3):
            ask(known, descriptor)
            assert await asyncio.to_thread(taken, known, descriptor.length) is Status.OK
            crowd += [connect(consumer) for _ in range(2 * CONNECTIONS)]
            # The places have been given away once more when the first of the crowd has lost its own.
            assert await asyncio.to_thread(hung_up, crowd.pop(0))
    consumer.pool.reincarnate("done")


async def test_a_stranger_has_little_time(consumer: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_server, "INTRODUCTION_SECONDS", 0.2)
    descriptor = Producer(consumer).publish(1, 1000)
    with contextlib.closing(connect(consumer)) as silent:
        assert await asyncio.to_thread(hung_up, silent)
    with contextlib.closing(connect(consumer)) as guessing:

        def guess() -> bool:
            try:
                ask(guessing, descriptor, generation=99)
                return taken(guessing, 0) is not Status.STALE
            except (ConnectionError, struct.error):
                return True

        await asyncio.to_thread(waiting.until, guess, 10, "the server has hung up on who guesses")
    with contextlib.closing(connect(consumer)) as known:
        ask(known, descriptor)
        assert await asyncio.to_thread(taken, known, descriptor.length) is Status.OK
        with contextlib.closing(connect(consumer)) as later:
            assert await asyncio.to_thread(hung_up, later)
        ask(known, descriptor)
        assert await asyncio.to_thread(taken, known, descriptor.length) is Status.OK
    consumer.pool.reincarnate("done")


async def test_the_known_who_ask_for_nothing_make_room(
    consumer: Transport, crowd: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer is here before the thread that sent it has put its connection among those that wait.
    waits = threading.Semaphore(0)
    really_served = tcp_server._Places.served

    def served(places: tcp_server._Places, connection: socket.socket) -> None:
        really_served(places, connection)
        waits.release()

    monkeypatch.setattr(tcp_server._Places, "served", served)
    descriptor = Producer(consumer).publish(1, 1000)
    for _ in range(CONNECTIONS):
        crowd.append(connect(consumer))
        ask(crowd[-1], descriptor)
        assert await asyncio.to_thread(taken, crowd[-1], descriptor.length) is Status.OK
        assert await asyncio.to_thread(waits.acquire, timeout=5)
    assert await pulled(consumer, descriptor) == content(1, 1000)
    assert await asyncio.to_thread(hung_up, crowd[0])
    consumer.pool.reincarnate("done")


async def test_a_pull_waits_while_all_places_are_served(consumer: Transport, crowd: list[socket.socket]) -> None:
    producer = Producer(consumer)
    large, small = producer.publish(1, 40 << 20), producer.publish(2, 1000)
    for _ in range(CONNECTIONS):
        crowd.append(connect(consumer))
        ask(crowd[-1], large)
        # It has begun to be served.
        assert len(await asyncio.to_thread(crowd[-1].recv, ANSWER.size, socket.MSG_WAITALL)) == ANSWER.size
    pulling = asyncio.create_task(pulled(consumer, small))
    await eventually(lambda: consumer.pool.slots_used == 3)
    crowd.pop().close()
    assert await pulling == content(2, 1000)
    consumer.pool.reincarnate("done")


@pytest.mark.parametrize("times", [ATTEMPTS - 1, ATTEMPTS])
async def test_who_lost_its_place_before_it_was_served_comes_again(
    consumer: Transport, chatterbox: socket.socket, times: int
) -> None:
    descriptor = Producer(consumer).publish(1, 1000)

    def give_places_away() -> None:
        for _ in range(times):
            chatterbox.accept()[0].close()
        if times == ATTEMPTS:
            return
        connection, _ = chatterbox.accept()
        with contextlib.closing(connection), contextlib.closing(connect(consumer)) as server:
            server.sendall(connection.recv(REQUEST.size, socket.MSG_WAITALL))
            connection.sendall(server.recv(ANSWER.size + on_the_wire(descriptor.length), socket.MSG_WAITALL))

    crowded = asyncio.create_task(asyncio.to_thread(give_places_away))
    url = f"tcp://127.0.0.1:{chatterbox.getsockname()[1]}"
    behind = dataclasses.replace(descriptor, url=url)
    if times < ATTEMPTS:
        assert await pulled(consumer, behind) == content(1, 1000)
    else:
        with pytest.raises(PeerDead, match=f"{times} times"):
            await pulled(consumer, behind)
    await crowded
    consumer.pool.reincarnate("done")


@pytest.fixture
def chatterbox() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
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
    taken = urlsplit(consumer.pool.url)
    where = {"host": taken.hostname, "port_min": taken.port, "port_max": taken.port}
    with pytest.raises(EngineInitFailed, match=f"no free port from {taken.port} to {taken.port}"):
        await open_transport(**settings("tcp", 4096) | where, incarnation="b")
    with pytest.raises(EngineInitFailed, match="can't listen on 192"):
        await open_transport(**settings("tcp", 4096) | {"host": "192.0.2.1"}, incarnation="b")
