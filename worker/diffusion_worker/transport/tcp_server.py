"""The serving half of the TCP back end: answers pulls from the pool, in threads of its own.

One request and one answer at a time on a connection, any number after one another. There is no authentication beyond
knowing incarnation and generation, both of which only the control channel tells. Who has shown that by one pull is
known. All others are strangers: they get little time, half of the places at most, and make room for who comes after.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import structlog

from diffusion_worker.transport.errors import EngineInitFailed
from diffusion_worker.transport.pool import Pool
from diffusion_worker.transport.seal import SEAL_BYTES

VERSION: Final = 1
MAGIC: Final = b"DPTP"
# magic, version, reserved, incarnation (fingerprint), slot, slot generation, address in the pool, length
REQUEST: Final = struct.Struct("<4sHH16sIQQQ")
# magic, version, status; if it is OK the bytes follow, up to a multiple of 64. Answers of other lengths would shift all
# bytes after them against the kernel's buffers, and copies between addresses so shifted take half as long again.
ANSWER: Final = struct.Struct("<4sHH56x")
ALIGNMENT: Final = 64

CONNECTIONS: Final = 64
STRANGERS: Final = CONNECTIONS // 2
# From a connection to its first pull of something that is here.
INTRODUCTION_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 60.0
# Whom the kernel has no place for tries again after a whole second.
BACKLOG: Final = 1024
SEND_SECONDS: Final = 30.0

log = structlog.get_logger()


class Status(IntEnum):
    OK = 0
    STALE = 1
    OUT_OF_RANGE = 2
    UNKNOWN_VERSION = 3


def on_the_wire(length: int) -> int:
    """Bytes that follow an answer for `length` bytes; a slot, being whole pages, always has them."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def set_timeout(connection: socket.socket, option: int, seconds: float) -> None:
    """SO_RCVTIMEO or SO_SNDTIMEO: unlike `settimeout` it costs no poll before each call."""
    whole = int(seconds)
    connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", whole, max(1, int((seconds - whole) * 1e6))))


def listen(host: str, port_min: int, port_max: int) -> socket.socket:
    """On the first free port of the range. Raises EngineInitFailed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(port_min, port_max + 1):
        try:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise EngineInitFailed(f"can't listen on {host} port {port}: {error.strerror or error}") from error
    raise EngineInitFailed(f"no free port from {port_min} to {port_max} on {host}: widen spec.transport's port range")


class PullServer:
    """`failed` is called, on any thread, should it cease to take connections."""

    def __init__(self, listener: socket.socket, pool: Pool, failed: Callable[[str], None]) -> None:
        self._listener = listener
        self._pool = pool
        self._failed = failed
        self._places = _Places()
        self._closed = False
        self._acceptor = threading.Thread(target=self._run, name="pull-server", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Hang up on everybody. Returns at once; the threads end by themselves."""
        self._closed = True
        _hang_up(self._listener)
        self._listener.close()
        self._places.close()

    def _run(self) -> None:
        try:
            self._accept()
        except Exception as error:
            log.error("pull_server_ended", exc_info=error)
            self._failed(f"the pull server ended: {error}")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                # Out of file descriptors or an aborted connection: the listener itself is well.
                log.warning("pull_accept_failed", error=str(error))
                time.sleep(0.1)
                continue
            if not self._places.take(connection):
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), name="pull-serve", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_timeout(connection, socket.SO_RCVTIMEO, INTRODUCTION_SECONDS)
            set_timeout(connection, socket.SO_SNDTIMEO, SEND_SECONDS)
            self._answer(connection)
        except OSError:
            # The consumer hung up, or was idle or stuck for too long: its own side reports what that means.
            return
        finally:
            self._places.leave(connection)
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        introduction_ends: float | None = time.monotonic() + INTRODUCTION_SECONDS
        request = bytearray(REQUEST.size)
        while connection.recv_into(request, REQUEST.size, socket.MSG_WAITALL) == REQUEST.size:
            status, data = self._look_up(bytes(request))
            if status is Status.OK:
                if introduction_ends is not None:
                    introduction_ends = None
                    set_timeout(connection, socket.SO_RCVTIMEO, IDLE_SECONDS)
                if not self._places.serve(connection):
                    return
            answer = ANSWER.pack(MAGIC, VERSION, status)
            sent = connection.sendmsg([answer, data]) if data.nbytes else connection.send(answer)
            if sent < ANSWER.size:
                return
            if sent < ANSWER.size + data.nbytes:
                connection.sendall(data[sent - ANSWER.size :])
            if status is Status.UNKNOWN_VERSION:
                return
            if introduction_ends is not None and time.monotonic() > introduction_ends:
                return
            if status is Status.OK:
                self._places.served(connection)

    def _look_up(self, request: bytes) -> tuple[Status, memoryview]:
        nothing = memoryview(b"")
        magic, version, _, incarnation, index, generation, address, length = REQUEST.unpack(request)
        if magic != MAGIC or version != VERSION:
            return Status.UNKNOWN_VERSION, nothing
        if address + length > self._pool.size:
            return Status.OUT_OF_RANGE, nothing
        slot = self._pool.find(incarnation, index, generation)
        if slot is None:
            return Status.STALE, nothing
        if address != slot.offset or length != SEAL_BYTES + slot.nbytes:
            return Status.OUT_OF_RANGE, nothing
        return Status.OK, slot.region[: on_the_wire(length)]


class _Places:
    """Who holds the CONNECTIONS places, and who gives way when all are taken."""

    def __init__(self) -> None:
        # Since when they wait for their consumer's next request is each one's order.
        self._strangers: dict[socket.socket, None] = {}
        self._idle: dict[socket.socket, None] = {}
        self._served: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._closed = False

    def take(self, connection: socket.socket) -> bool:
        """For a stranger. Waits only while all others are being served; False: this was closed."""
        with self._changed:
            while not self._closed:
                if len(self._strangers) >= STRANGERS:
                    self._give_way(self._strangers)
                elif len(self._strangers) + len(self._idle) + len(self._served) < CONNECTIONS:
                    self._strangers[connection] = None
                    return True
                elif self._idle or self._strangers:
                    # Its consumer connects again when it next wants something.
                    self._give_way(self._idle or self._strangers)
                else:
                    self._changed.wait()
            return False

    def serve(self, connection: socket.socket) -> bool:
        """From here on it is known. False: it had to give way before."""
        with self._changed:
            known = connection in self._strangers or connection in self._idle
            self._forget(connection)
            if known:
                self._served.add(connection)
            return known

    def served(self, connection: socket.socket) -> None:
        with self._changed:
            if connection in self._served:
                self._served.discard(connection)
                self._idle[connection] = None
                self._changed.notify()

    def leave(self, connection: socket.socket) -> None:
        with self._changed:
            self._forget(connection)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for connection in (*self._strangers, *self._idle, *self._served):
                _hang_up(connection)
            self._changed.notify()

    def _give_way(self, among: dict[socket.socket, None]) -> None:
        longest = next(iter(among))
        self._forget(longest)
        _hang_up(longest)

    def _forget(self, connection: socket.socket) -> None:
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)
        self._served.discard(connection)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EBADF):
            raise
