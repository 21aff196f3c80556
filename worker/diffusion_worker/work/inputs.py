"""What a task needs before it can be computed, brought to this worker while another task computes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from diffusion_worker.metrics import StageMetrics
from diffusion_worker.transport import Slot, Transport, TransportError, from_wire
from diffusion_worker.work.room import Room
from diffusion_worker.work.store import ArtifactStore
from diffusion_worker.work.tasks import Task
from diffusionpipeline.v1 import stage_pb2

# A pull's own deadline: first contact with a peer, and the slowest network worth waiting for.
PULL_SECONDS: Final = 10.0
SLOWEST_BYTES_PER_SECOND: Final = 50e6

MAX_SOURCES: Final = 256


class Inputs:
    def __init__(self, transport: Transport, room: Room, artifacts: ArtifactStore, *, max_bytes: int) -> None:
        self._transport = transport
        self._room = room
        self._artifacts = artifacts
        self._max_bytes = max_bytes
        self._sources: OrderedDict[str, None] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._pulls: Counter[str] = Counter()
        """Under way, by the peer that made what they pull."""

    async def pull(self, task: Task, metrics: StageMetrics) -> Slot:
        """The input's bytes in a slot of this worker, seal and digest checked. Raises TransportError, DeadlinePassed.

        Whatever happens but success, also when cancelled, no slot is kept.
        """
        descriptor = from_wire(task.execute.input)
        _remember(self._sources, descriptor.incarnation)
        nbytes = descriptor.payload_bytes
        slot = await self._room.lease(task, nbytes)
        begun = time.perf_counter()
        left = max(0.0, task.deadline - asyncio.get_running_loop().time())
        timeout = min(PULL_SECONDS + nbytes / SLOWEST_BYTES_PER_SECOND, left)
        self._pulls[descriptor.incarnation] += 1
        try:
            await self._transport.pull(descriptor, slot, timeout=timeout)
        except BaseException as error:
            self._room.release(slot)
            metrics.transfer_failed(error.kind if isinstance(error, TransportError) else "cancelled")
            raise
        finally:
            self._pulls[descriptor.incarnation] -= 1
            self._drop_if_gone(descriptor.incarnation)
        seconds = time.perf_counter() - begun
        task.timings.transfer_seconds, task.timings.transfer_bytes = seconds, nbytes
        metrics.transfer_duration.observe(seconds)
        metrics.transfer_bytes.inc(nbytes)
        return slot

    async def download(self, task: Task) -> Mapping[str, Sequence[bytes]]:
        """The request's input files by name, those of one name in its order.

        Raises InvalidRequest, StoreRefused, DeadlinePassed.
        """
        begun = time.perf_counter()
        files: dict[str, list[bytes]] = {}
        left = self._max_bytes
        for file in task.execute.parameters.inputs:
            data = await self._artifacts.download(
                key=file.key, limit=left, deadline=task.deadline, task_id=task.id, ticket=task.execute.ticket
            )
            files.setdefault(file.name, []).append(data)
            left -= len(data)
        task.timings.transfer_seconds = time.perf_counter() - begun
        task.timings.transfer_bytes = self._max_bytes - left
        return files

    def forget_peers(self) -> None:
        """Drop what was built to pull from others: they know this worker by an incarnation that is no more."""
        for incarnation in self._sources:
            self._transport.drop_peer(incarnation)
        self._sources.clear()

    def forget_peer(self, incarnation: str) -> None:
        """Drop what was built to pull from a peer that is given up: an engine's process, connections, a mapped pool.

        After the pulls that are under way: one of a peer that is only cut off from the router may still work.
        """
        _remember(self._gone, incarnation)
        self._drop_if_gone(incarnation)

    def _drop_if_gone(self, incarnation: str) -> None:
        if self._pulls[incarnation]:
            return
        del self._pulls[incarnation]
        if incarnation in self._gone:
            self._transport.drop_peer(incarnation)
            self._sources.pop(incarnation, None)


def _remember(peers: OrderedDict[str, None], incarnation: str) -> None:
    peers[incarnation] = None
    peers.move_to_end(incarnation)
    if len(peers) > MAX_SOURCES:
        peers.popitem(last=False)


def mismatch(generation: str, descriptor: stage_pb2.Descriptor) -> str:
    """Why an input must not be used, or nothing."""
    if descriptor.generation == generation:
        return ""
    return f"the input was made by generation {descriptor.generation!r}, this worker is of {generation!r}"
