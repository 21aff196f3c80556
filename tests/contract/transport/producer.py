"""A worker's producing half as a program: publishes on request, so that tests can kill, freeze and restart it.

Commands are JSON lines on stdin; each is answered by one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import numpy as np
import structlog

from diffusion_worker.transport import Descriptor, Slot, Transport, open_transport


def content(seed: int, nbytes: int) -> bytes:
    """Bytes that both ends can make."""
    return np.random.default_rng(seed).bytes(nbytes)


class Producer:
    """What a producer does, in this process or another."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.slots: dict[int, Slot] = {}

    def publish(self, seed: int, nbytes: int) -> Descriptor:
        return self.publish_bytes(content(seed, nbytes))

    def publish_bytes(self, data: bytes) -> Descriptor:
        slot = self.transport.pool.lease(len(data), "test")
        slot.payload[:] = data
        self.slots[slot.index] = slot
        return self.transport.pool.publish(slot, len(data))

    def flip(self, slot: int) -> None:
        """A byte in the middle of a published payload."""
        payload = self.slots[slot].payload
        payload[len(payload) // 2] ^= 0xFF

    def release(self, slot: int) -> None:
        self.transport.pool.release(self.slots.pop(slot))

    def reincarnate(self, incarnation: str) -> None:
        self.transport.pool.reincarnate(incarnation)
        self.slots.clear()

    def carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        match command.pop("do"):
            case "publish":
                return vars(self.publish(**command))
            case "publish_file":
                with open(command["path"], "rb") as file:  # noqa: PTH123
                    return vars(self.publish_bytes(file.read()))
            case "flip":
                self.flip(**command)
            case "release":
                self.release(**command)
            case "reincarnate":
                self.reincarnate(**command)
            case unknown:
                raise ValueError(unknown)
        return {}


async def main() -> None:
    # stdout belongs to the answers.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = json.loads(sys.argv[1])
    producer = Producer(await open_transport(incarnation=os.urandom(16).hex(), **settings))
    print(json.dumps({"incarnation": producer.transport.pool.incarnation}), flush=True)  # noqa: T201
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps(producer.carry_out(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
