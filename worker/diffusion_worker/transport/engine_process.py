"""The worker's handle of an engine process: start it, ask it to read, kill it.

Killing is the only cancel and the only fence that an engine has: once the process is reaped, nothing that it began can
land in the pool any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Final, NamedTuple

import structlog

from diffusion_worker.engine.wire import DATAGRAM, PING, REPLY, REQUEST
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.errors import EngineInitFailed, PeerDead
from diffusion_worker.transport.seal import SEAL_BYTES

PROGRAM: Final = "from diffusion_worker.engine.program import main; main()"
# Beyond `patience`: importing the library, and touching a large pool's page table.
START_SECONDS: Final = 30.0
# One failed pull can write hundreds of lines.
LINES: Final = 20
LINES_SECONDS: Final = 60.0
# Written at every successful start, at any log level.
_CHATTER: Final = ("Logging before InitGoogleLogging()", "Local segment descriptor not found")

log = structlog.get_logger()


class EngineSettings(NamedTuple):
    host: str
    protocol: str
    devices: str
    port_min: int
    port_max: int


class Reply(NamedTuple):
    outcome: int
    digest: int


class EngineProcess:
    """Use `start`. All methods are called on the event loop."""

    def __init__(self, pool_file: int, size: int, settings: EngineSettings, patience: float, *, serves: bool) -> None:
        self.url = ""
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        arguments = settings._asdict() | {
            "pool": pool_file,
            "size": size,
            "control": theirs.fileno(),
            "parent": os.getpid(),
            "patience": patience,
            "serves": serves,
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(pool_file, theirs.fileno()),
                env=environment(settings),
            )
        threading.Thread(target=self._follow, name="engine-output", daemon=True).start()

    @staticmethod
    async def start(
        pool_file: int, size: int, settings: EngineSettings, patience: float, *, serves: bool
    ) -> EngineProcess:
        """`serves`: others may read the pool by it. Raises EngineInitFailed after at most `patience` + 30 seconds."""
        engine = EngineProcess(pool_file, size, settings, patience, serves=serves)
        try:
            async with asyncio.timeout(patience + START_SECONDS):
                hello = await engine._loop.sock_recv(engine._control, DATAGRAM)
            answer = json.loads(hello) if hello else {"error": "the engine's process ended: see engine_output above"}
            if "error" in answer:
                raise EngineInitFailed(answer["error"])
        except TimeoutError as error:
            await engine.kill()
            raise EngineInitFailed(f"the engine's process did not start in {patience + START_SECONDS:g} s") from error
        except BaseException:
            await engine.kill()
            raise
        engine.url = answer["url"]
        engine._loop.add_reader(engine._control.fileno(), engine._on_reply)
        return engine

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._exited.done() and self._control.fileno() >= 0

    def read(self, descriptor: Descriptor, offset: int) -> asyncio.Future[Reply]:
        """Read what the descriptor names to `offset` of the pool. The future raises PeerDead if the process ends."""
        number = next(self._ids)
        request = REQUEST.pack(number, offset, descriptor.address, descriptor.length, SEAL_BYTES)
        return self._ask(number, request + descriptor.url.encode(), descriptor.url)

    def ping(self) -> asyncio.Future[Reply]:
        """Ask whether it still takes requests, which one that reads nothing does at once. Raises as `read` does."""
        number = next(self._ids)
        return self._ask(number, PING.pack(number), self.url)

    def _ask(self, number: int, request: bytes, url: str) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        future.add_done_callback(lambda done: done.exception())  # whoever asked may have given up
        try:
            self._control.send(request)
        except OSError as error:  # gone, or hundreds of requests behind
            future.set_exception(PeerDead(f"the engine for {url} takes no requests: {error.strerror}"))
        else:
            self._waiting[number] = future
        return future

    async def kill(self) -> None:
        """Returns when the process is no more."""
        self._process.kill()
        self._hang_up()
        await self.wait()

    async def wait(self) -> int:
        """The exit status, once there is one."""
        return await asyncio.shield(self._exited)

    def _on_reply(self) -> None:
        while True:
            try:
                datagram = self._control.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if not datagram:
                self._hang_up()
                return
            number, outcome, digest = REPLY.unpack(datagram)
            future = self._waiting.pop(number)
            if not future.done():
                future.set_result(Reply(outcome, digest))

    def _hang_up(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(PeerDead("the engine's process ended"))

    def _follow(self) -> None:
        """In a thread: pass on some of what the library writes to stderr, then reap the process."""
        assert self._process.stderr is not None
        since, count = time.monotonic(), 0
        with self._process.stderr:
            for line in self._process.stderr:
                text = line.decode(errors="replace").strip()
                if not text or any(chatter in text for chatter in _CHATTER):
                    continue
                if time.monotonic() - since > LINES_SECONDS:
                    if count > LINES:
                        log.warning("engine_output_dropped", lines=count - LINES, engine_pid=self._process.pid)
                    since, count = time.monotonic(), 0
                count += 1
                if count <= LINES:
                    log.warning("engine_output", line=text[:500], engine_pid=self._process.pid)
        status = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._exited.set_result, status)


def environment(settings: EngineSettings) -> dict[str, str]:
    """For an engine's process. What the user set stays, but for the choice of network and ports.

    `protocol` alone does not choose: without MC_FORCE_HCA an engine without a device silently uses TCP, and without
    MC_FORCE_TCP one with a device uses RDMA.
    """
    chosen = {
        "MC_LOG_LEVEL": "ERROR",
        "MC_TCP_PROGRESS_TIMEOUT_SEC": "5",
        "MC_TCP_STATUS_TIMEOUT_SEC": "5",
        "MC_HANDSHAKE_CONNECT_TIMEOUT": "2",
        "MC_TRANSFER_TIMEOUT": "5",
        "MC_SLICE_TIMEOUT": "10",
    }
    chosen |= os.environ
    for name in ("MC_FORCE_TCP", "MC_FORCE_HCA", "MC_LOG_DIR"):  # the last aborts the process in this version
        chosen.pop(name, None)
    chosen |= {
        "MC_FORCE_HCA" if settings.protocol == "rdma" else "MC_FORCE_TCP": "1",
        "MC_MIN_RPC_PORT": str(settings.port_min),
        "MC_MAX_RPC_PORT": str(settings.port_max),
    }
    if ":" in settings.host:
        chosen["MC_USE_IPV6"] = "1"
    return chosen
