"""The Mooncake back end: RDMA, or TCP where there is none.

Every engine runs in a process of its own (see `engine/`). One serves the pool; one more per remote incarnation pulls
from it, so that a peer that is frozen, dead or restarted holds up nobody else: first contact with a frozen peer blocks
an engine for a minute, and an engine's notion of a peer never heals. A warm spare waits for the next peer.

Engines of both networks may have the one pool: it is served by one, and inputs may be pulled into it by the other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Final

import structlog

from diffusion_worker.engine.guard import MODES
from diffusion_worker.engine.url import PoolUrl
from diffusion_worker.engine.wire import Outcome
from diffusion_worker.transport.descriptor import Descriptor
from diffusion_worker.transport.engine_process import EngineProcess, EngineSettings, Reply
from diffusion_worker.transport.errors import EngineInitFailed, ModeMismatch, OutOfRange, PeerDead, TransportError
from diffusion_worker.transport.huge import pool_file, pool_memory
from diffusion_worker.transport.pool import Pool, Slot
from diffusion_worker.transport.pull import Deadline, PullingTransport
from diffusion_worker.transport.rdma_ports import RdmaPorts

# Ports of a killed process are in TIME-WAIT for a minute.
PATIENCE: Final = 70.0
PULL_PATIENCE: Final = 5.0
CLOSE_SECONDS: Final = 5.0
SPARE_SECONDS: Final = 1.0
PORT_SECONDS: Final = 1.0
# The process that serves the pool reads from nobody, so that it answers at once.
PING_SECONDS: Final = 5.0
MISSED: Final = 6
# Processes kept for peers; the least recently used goes first.
LINKS: Final = 16

log = structlog.get_logger()


@dataclass(eq=False)
class _Link:
    """An engine process that reads from one remote incarnation."""

    starting: asyncio.Task[EngineProcess]
    wanted: int = 0
    """Pulls that somebody waits for."""
    retired: bool = False
    """Takes no more pulls; its process is killed when none is wanted."""
    ended: bool = False
    """Its process is no more."""
    doomed: list[Slot] = field(default_factory=list)
    """In quarantine until the process is no more."""

    @property
    def usable(self) -> bool:
        if self.retired or self.starting.cancelled():
            return False
        return not self.starting.done() or (self.starting.exception() is None and self.starting.result().alive)


class MooncakeTransport(PullingTransport):
    """Use `open`."""

    def __init__(
        self,
        pool: Pool,
        file: int,
        server: EngineProcess,
        serving: EngineSettings,
        pulling: EngineSettings,
        ports: RdmaPorts,
    ) -> None:
        super().__init__(pool)
        self.pulls = MODES[pulling.protocol]
        self._pool_file = file
        self._server = server
        self._settings = {self.mode: serving, self.pulls: pulling}
        self._links: dict[str, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._spare: asyncio.Task[EngineProcess] | None = self._start_engine(self.pulls)
        self._watchers = [asyncio.create_task(self._watch_server()), asyncio.create_task(self._ping_server())]
        if serving.devices or pulling.devices:
            self._watchers.append(asyncio.create_task(self._watch_ports(ports)))

    @staticmethod
    async def open(
        serving: EngineSettings, pulling: EngineSettings, *, pool_size: int, incarnation: str, huge_pages: str = ""
    ) -> MooncakeTransport:
        """Raises EngineInitFailed after at most PATIENCE seconds and the time that a process takes to start."""
        file = pool_file(huge_pages)
        devices = serving.devices or pulling.devices
        ports = RdmaPorts(devices.split(",") if devices else ())
        try:
            memory = pool_memory(pool_size, file, huge_pages)
            server = await EngineProcess.start(file, len(memory), serving, PATIENCE, serves=True)
        except BaseException:
            os.close(file)
            raise
        pool = Pool(
            memory,
            incarnation=incarnation,
            mode=MODES[serving.protocol],
            url=server.url,
            address=PoolUrl.parse(server.url).address,
        )
        return MooncakeTransport(pool, file, server, serving, pulling, ports)

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        try:
            url = PoolUrl.parse(descriptor.url)
            url.check(descriptor.address, descriptor.length)
        except ValueError as error:
            raise OutOfRange(str(error)) from error
        if url.version != (own := PoolUrl.parse(self.pool.url).version):
            raise ModeMismatch(
                f"{url} is reached by {url.version}, this worker by {own}, and Mooncake speaks one of them alone: give "
                "all nodes the same order of addresses (the kubelet's --node-ip), or choose spec.transport.backend: tcp"
            )
        link = self._link(descriptor.incarnation, descriptor.mode)
        link.wanted += 1
        reply: asyncio.Future[Reply] | None = None
        try:
            async with asyncio.timeout(deadline.left):
                process = await asyncio.shield(link.starting)
                reply = process.read(descriptor, slot.offset)
                outcome, digest = await asyncio.shield(reply)
            if outcome == Outcome.OUT_OF_RANGE:
                raise OutOfRange(f"{descriptor.url} refuses {descriptor.length} bytes at {descriptor.address:#x}")
            if outcome != Outcome.OK:
                raise PeerDead(f"the engine could not read {descriptor.length} bytes from {descriptor.url}")
            return digest
        except EngineInitFailed:
            self._retire(descriptor.incarnation, link)
            raise
        except (TransportError, TimeoutError):
            self._doom(link, slot)
            self._retire(descriptor.incarnation, link)
            raise
        except asyncio.CancelledError:
            if reply is not None and not reply.done():
                self._abandon(descriptor.incarnation, link, slot, reply, deadline)
            raise
        finally:
            link.wanted -= 1
            self._end_if_unwanted(link)

    def drop_peer(self, incarnation: str) -> None:
        link = self._links.get(incarnation)
        if link is not None:
            self._retire(incarnation, link)
            self._spawn(self._end(link))

    async def close(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        for incarnation in list(self._links):
            self.drop_peer(incarnation)
        if self._spare is not None:
            self._spawn(self._end(_Link(self._spare)))
        self._spawn(self._server.kill())
        _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        for task in late:
            task.cancel()
        os.close(self._pool_file)

    def _link(self, incarnation: str, mode: str) -> _Link:
        """The peer's engine, made now if this is the first contact: the peer was heard of a moment ago."""
        link = self._links.pop(incarnation, None)
        if link is None or not link.usable:
            if link is not None:
                self._retire(incarnation, link)
                self._end_if_unwanted(link)
            link = _Link(self._take_spare(mode) or self._start_engine(mode))
            if not link.usable:
                link = _Link(self._start_engine(mode))
        self._links[incarnation] = link  # last: the most recently used
        for name, other in list(self._links.items())[: max(0, len(self._links) - LINKS)]:
            if other.wanted == 0:
                self.drop_peer(name)
        return link

    def _take_spare(self, mode: str) -> asyncio.Task[EngineProcess] | None:
        if mode != self.pulls:
            return None
        spare, self._spare = self._spare, None
        self._spawn(self._replenish())
        return spare

    def _abandon(
        self, incarnation: str, link: _Link, slot: Slot, reply: asyncio.Future[Reply], deadline: Deadline
    ) -> None:
        """Nobody waits for this read any more, but it goes on: the only way to stop it would stop the others too."""
        self._doom(link, slot)

        def ended(reply: asyncio.Future[Reply]) -> None:
            expiry.cancel()
            if reply.exception() is None and reply.result().outcome == Outcome.OK:
                self.pool.end_quarantine(slot)
            else:
                expired()

        def expired() -> None:
            self._retire(incarnation, link)
            self._end_if_unwanted(link)

        expiry = asyncio.get_running_loop().call_later(deadline.left, expired)
        reply.add_done_callback(ended)

    def _doom(self, link: _Link, slot: Slot) -> None:
        if not link.ended:
            self.pool.quarantine(slot)
            link.doomed.append(slot)

    def _retire(self, incarnation: str, link: _Link) -> None:
        link.retired = True
        if self._links.get(incarnation) is link:
            del self._links[incarnation]

    def _end_if_unwanted(self, link: _Link) -> None:
        if link.retired and not link.wanted and not link.ended:
            self._spawn(self._end(link))

    async def _end(self, link: _Link) -> None:
        """Kill the engine's process; then nothing can land in the slots that it was reading into."""
        try:
            process = await link.starting
        except EngineInitFailed:
            log.info("engine_not_started")
        else:
            await process.kill()
        link.ended = True
        for slot in link.doomed:
            self.pool.end_quarantine(slot)

    async def _replenish(self) -> None:
        """A new spare, once the pull that took the last one is probably through."""
        await asyncio.sleep(SPARE_SECONDS)
        if self._spare is None:
            self._spare = self._start_engine(self.pulls)

    def _start_engine(self, mode: str) -> asyncio.Task[EngineProcess]:
        start = EngineProcess.start(self._pool_file, self.pool.size, self._settings[mode], PULL_PATIENCE, serves=False)
        return asyncio.create_task(start)

    async def _watch_server(self) -> None:
        status = await self._server.wait()
        self.failure = f"the engine process that serves this worker's pool ended with status {status}"
        log.error("pool_server_ended", status=status)

    async def _ping_server(self) -> None:
        """One that lives and does nothing any more (it was stopped, it waits for what never comes) looks like a network
        that is slow, to those who pull. Counted in turns, so that this process' own pauses are no silence."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            answer, missed = self._server.ping(), 0
            while not answer.done():
                await asyncio.wait([answer], timeout=PING_SECONDS)
                missed += not answer.done()
                if missed >= MISSED:
                    silence = MISSED * PING_SECONDS
                    self.failure = f"the engine process that serves this worker's pool was silent for {silence:g} s"
                    log.error("pool_server_silent", seconds=silence)
                    return

    async def _watch_ports(self, ports: RdmaPorts) -> None:
        while (fault := await asyncio.to_thread(ports.fault)) is None:  # noqa: ASYNC110  # the kernel tells nobody
            await asyncio.sleep(PORT_SECONDS)
        self.failure = f"{fault}, and Mooncake's engines do not get over that: the pool can't be pulled from any more"
        log.error("rdma_port_failed", fault=fault)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
