"""The TCP back end: our own pull server and client. Always there, no native code.

The client works in threads, with blocking calls: one `recv_into` takes as much as the kernel has, straight into the
slot, and is hashed while it is still in cache. Cancelling a pull shuts its socket down, after which nothing can land.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import xxhash

from diffusion_worker.digest import PIECE
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import ModeMismatch, OutOfRange, PeerDead, StaleDescriptor, TransportError
from diffusion_worker.transport.huge import pool_file, pool_memory
from diffusion_worker.transport.pool import Pool, Slot, allocate
from diffusion_worker.transport.pull import Deadline, PullingTransport
from diffusion_worker.transport.seal import SEAL_BYTES, fingerprint
from diffusion_worker.transport.tcp_server import (
    ANSWER,
    MAGIC,
    REQUEST,
    VERSION,
    PullServer,
    Status,
    listen,
    on_the_wire,
    set_timeout,
)
from diffusionpipeline.process.addresses import host_port

MODE: Final = "tcp"
# Pulls at once; more wait for a thread.
THREADS: Final = 16
IDLE_CONNECTIONS: Final = 8
# Connections on which a pull is tried, if the peer hangs up before it has answered.
ATTEMPTS: Final = 4


class TcpTransport(PullingTransport):
    def __init__(
        self,
        *,
        host: str,
        port_min: int,
        port_max: int,
        pool_size: int,
        incarnation: str,
        huge_pages: str = "",
    ) -> None:
        memory = _memory(pool_size, huge_pages)
        listener = listen(host, port_min, port_max)
        port = listener.getsockname()[1]
        url = f"{MODE}://{host_port(host, port)}"
        super().__init__(Pool(memory, incarnation=incarnation, mode=MODE, url=url))
        self._server = PullServer(listener, self.pool, self._fail)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pull")
        self._idle: dict[str, list[socket.socket]] = {}
        self._calls: set[_Call] = set()

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        loop = asyncio.get_running_loop()
        idle = self._idle.get(descriptor.incarnation)
        call = _Call(descriptor, slot, deadline, idle.pop() if idle else None)
        self._calls.add(call)
        work = loop.run_in_executor(self._threads, call.run)
        try:
            async with asyncio.timeout(deadline.left):
                digest = await asyncio.shield(work)
        except (TimeoutError, asyncio.CancelledError):
            self.pool.quarantine(slot)
            call.abort()
            work.add_done_callback(lambda done: self._ended(done, slot))
            raise
        except TransportError:
            self._keep(descriptor.incarnation, call.connection)
            raise
        finally:
            self._calls.discard(call)
        self._keep(descriptor.incarnation, call.connection)
        return digest

    def _fail(self, why: str) -> None:
        self.failure = why

    def drop_peer(self, incarnation: str) -> None:
        for connection in self._idle.pop(incarnation, []):
            connection.close()
        for call in self._calls:
            if call.descriptor.incarnation == incarnation:
                call.abort()

    async def close(self) -> None:
        self._server.close()
        for incarnation in list(self._idle):
            self.drop_peer(incarnation)
        for call in self._calls:
            call.abort()
        self._threads.shutdown(wait=False)

    def _keep(self, incarnation: str, connection: socket.socket | None) -> None:
        if connection is None:
            return
        idle = self._idle.setdefault(incarnation, [])
        if len(idle) < IDLE_CONNECTIONS:
            idle.append(connection)
        else:
            connection.close()

    def _ended(self, work: asyncio.Future[int], slot: Slot) -> None:
        """The thread of an aborted call is through: nothing more lands in its slot."""
        if not work.cancelled():
            work.exception()  # it was aborted, so how it failed says nothing
        self.pool.end_quarantine(slot)


def _memory(pool_size: int, huge_pages: str) -> mmap.mmap:
    if not huge_pages:
        return allocate(pool_size)
    file = pool_file(huge_pages)
    try:
        return pool_memory(pool_size, file, huge_pages)
    finally:
        os.close(file)  # what is mapped stays


class _Call:
    """One pull, run in a thread; `abort` may be called from another."""

    def __init__(
        self, descriptor: Descriptor, slot: Slot, deadline: Deadline, connection: socket.socket | None
    ) -> None:
        self.descriptor = descriptor
        self.connection = connection
        self._slot = slot
        self._deadline = deadline
        self._lock = threading.Lock()
        self._aborted = False

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self.connection is not None:
                try:
                    self.connection.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        raise

    def run(self) -> int:
        """The digest of what came. Raises TransportError, or TimeoutError. Keeps the connection if it is still good."""
        try:
            for _ in range(ATTEMPTS):
                try:
                    return self._pull(self.connection or self._connect())
                except _HungUp:
                    # Kept idle for too long, the peer restarted, or it gave the place to somebody who came later: that
                    # says nothing about the next connection.
                    self._hang_up()
            raise PeerDead(f"{self.descriptor.url} hung up {ATTEMPTS} times")
        except PeerDead:
            self._hang_up()
            raise
        except (BlockingIOError, TimeoutError) as error:
            self._hang_up()
            raise TimeoutError from error
        except (OSError, UnicodeError) as error:
            self._hang_up()
            raise PeerDead(f"{self.descriptor.url}: {error}") from error

    def _connect(self) -> socket.socket:
        host, port = _endpoint(self.descriptor.url)
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICSERV
        )[0]
        connection = socket.socket(family, kind, protocol)
        with self._lock:
            self.connection = connection
        # Our own deadline shuts the socket down; this holds should the event loop be held up.
        set_timeout(connection, socket.SO_SNDTIMEO, self._deadline.left)
        connection.connect(target)
        with self._lock:
            # From here on `abort` finds a connected socket to shut down; before, that has no effect.
            if self._aborted:
                raise PeerDead(f"pull from {self.descriptor.url} was given up")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _pull(self, connection: socket.socket) -> int:
        descriptor = self.descriptor
        set_timeout(connection, socket.SO_RCVTIMEO, self._deadline.left)
        try:
            connection.send(
                REQUEST.pack(
                    MAGIC,
                    VERSION,
                    0,
                    fingerprint(descriptor.incarnation),
                    descriptor.slot,
                    descriptor.slot_generation,
                    descriptor.address,
                    descriptor.length,
                )
            )
            answer = bytearray(ANSWER.size)
            got, *_ = connection.recvmsg_into([answer, self._slot.region[: on_the_wire(descriptor.length)]])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _HungUp from error
        if got == 0:
            raise _HungUp
        if not MAGIC.startswith(answer[: min(got, len(MAGIC))]):
            self._hang_up()
            raise ModeMismatch(f"{descriptor.url} does not speak this protocol")
        if got < ANSWER.size:
            rest = memoryview(answer)[got:]
            if connection.recv_into(rest, rest.nbytes, socket.MSG_WAITALL) < rest.nbytes:
                raise PeerDead(f"{descriptor.url} hung up")
            got = ANSWER.size
        magic, version, status = ANSWER.unpack(answer)
        if magic != MAGIC or version != VERSION or status == Status.UNKNOWN_VERSION:
            self._hang_up()
            raise ModeMismatch(f"{descriptor.url} does not speak version {VERSION} of this protocol")
        if status == Status.STALE:
            raise StaleDescriptor(f"{descriptor.url} no longer has slot {descriptor.slot} as it was described")
        if status != Status.OK:
            raise OutOfRange(f"{descriptor.url}: {descriptor.length} bytes at {descriptor.address} are refused")
        return self._receive(connection, got - ANSWER.size)

    def _receive(self, connection: socket.socket, got: int) -> int:
        """The rest, hashed piece by piece as it comes."""
        length, region, digest = self.descriptor.length, self._slot.region, xxhash.xxh3_64()
        total, hashed = on_the_wire(length), SEAL_BYTES
        while True:
            if (upto := min(got, length)) > hashed:
                digest.update(region[hashed:upto])
                hashed = upto
            if got == total:
                return digest.intdigest()
            piece = region[got : min(total, got + PIECE)]
            received = connection.recv_into(piece, piece.nbytes, socket.MSG_WAITALL)
            if received == 0:
                raise PeerDead(f"{self.descriptor.url} hung up after {got} of {length} bytes")
            if self._deadline.left == 0:
                raise TimeoutError
            got += received

    def _hang_up(self) -> None:
        with self._lock:
            if self.connection is not None:
                self.connection.close()
                self.connection = None


class _HungUp(Exception):
    """Before any byte of an answer came."""


def _endpoint(url: str) -> tuple[str, int]:
    try:
        address = urlsplit(url)
        if address.hostname and address.port:
            return address.hostname, address.port
    except ValueError as error:
        raise OutOfRange(f"{url!r} is not a host and a port: {error}") from error
    raise OutOfRange(f"{url!r} is not a host and a port")
