"""Producers for the tests to pull from, behind one interface: processes, or for the memory back end objects."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import pytest

from contract.transport.producer import Producer
from diffusion_worker.transport import Descriptor, Transport, open_transport
from diffusion_worker.transport.devices import describe, devices
from testbed import waiting

MOONCAKE = ("mooncake-tcp", "mooncake-rdma")
BACKENDS = ("memory", "shm", "tcp", *MOONCAKE)
TALKING = ("tcp", "mooncake-tcp")
"""Back ends whose producer takes part in a pull; the others read its memory, whether it runs or is frozen."""
MEETING = (*TALKING, "mooncake-rdma")
"""Back ends whose producer takes part in the first pull from it."""
IPV6 = "-ipv6"
"""Behind the name of a back end that has an address: the same with one of IPv6."""

StartPeer = Callable[[], Awaitable[Any]]

PROGRAM = Path(__file__).with_name("producer.py")
POOL = 96 << 20
PORTS_EACH = 24
START_SECONDS = 60.0

# An emulated machine is slower: what tests wait for, and what they allow, is this many times as long there.
SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))

# Below the ephemeral ports; another start for each test run, so that TIME-WAIT of the last one does not matter.
_blocks = itertools.cycle(range(20000, 32000, PORTS_EACH))
for _ in range(os.getpid() % 500):
    next(_blocks)


def here(backends: Iterable[str]) -> list[str]:
    """Those of the back ends that this machine has: RDMA takes a usable device. REQUIRE_RDMA=1: it must be there."""
    found = devices()
    usable = any(device.usable for device in found)
    if os.environ.get("REQUIRE_RDMA") == "1" and not usable:
        raise pytest.UsageError(f"REQUIRE_RDMA=1, but {describe(found)}")
    return [backend for backend in backends if usable or backend != "mooncake-rdma"]


def settings(backend: str, pool_size: int = POOL) -> dict[str, Any]:
    """For `open_transport`, with a port range of its own."""
    port_min = next(_blocks)
    name, _, network = backend.removesuffix(IPV6).partition("-")
    return {
        "backend": name,
        "protocol": network or "tcp",
        "fallback": "Deny" if network == "rdma" else "Allow",
        "host": "::1" if backend.endswith(IPV6) else "127.0.0.1",
        "pool_size": pool_size,
        "port_min": port_min,
        "port_max": port_min + PORTS_EACH - 1,
    }


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """By this machine's time."""
    await waiting.eventually(condition, seconds * SLOWNESS, "it came true")


def processes_of(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            # After the command in parentheses: state, parent, group.
            state, _, its_group, *_ = (folder / "stat").read_text().rpartition(") ")[2].split()
            if int(its_group) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


def thread_states(pid: int) -> list[str]:
    """One letter a thread, as in ps."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(stat.read_text().rpartition(") ")[2][0])
    return states


class Peer(Protocol):
    def publish(self, seed: int, nbytes: int) -> Descriptor: ...
    def publish_file(self, path: Path) -> Descriptor: ...
    def flip(self, slot: int) -> None: ...
    def release(self, slot: int) -> None: ...
    def reincarnate(self, incarnation: str) -> None: ...
    async def kill(self) -> None: ...


class ProcessPeer:
    """A producer in a process (and whatever processes it starts) of its own."""

    def __init__(self, settings: dict[str, Any], cache: Path) -> None:
        self.settings = settings
        self._cache = cache
        # Where bytecode is not written, each start would compile the libraries anew.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=environment | {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONPATH": str(PROGRAM.parents[2])},
        )
        self.incarnation: str = self._answer()["incarnation"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def restarted(self) -> ProcessPeer:
        """Another process with the same ports."""
        return ProcessPeer(self.settings, self._cache)

    def publish(self, seed: int, nbytes: int) -> Descriptor:
        return Descriptor(**self._ask(do="publish", seed=seed, nbytes=nbytes))

    def publish_file(self, path: Path) -> Descriptor:
        return Descriptor(**self._ask(do="publish_file", path=str(path)))

    def flip(self, slot: int) -> None:
        self._ask(do="flip", slot=slot)

    def release(self, slot: int) -> None:
        self._ask(do="release", slot=slot)

    def reincarnate(self, incarnation: str) -> None:
        self._ask(do="reincarnate", incarnation=incarnation)

    def freeze(self) -> None:
        """Returns when every thread has stopped: until then some still answer."""
        os.killpg(self._process.pid, signal.SIGSTOP)

        def stopped() -> bool:
            return all(state in "tTZX" for pid in processes_of(self._process.pid) for state in thread_states(pid))

        waiting.until(stopped, 10, "every thread has stopped")

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            os.killpg(self._process.pid, signal.SIGCONT)

    def kill_now(self) -> None:
        """The worker's process alone: what it started must follow by itself."""
        self._process.kill()
        self._process.communicate()

    async def kill(self) -> None:
        """Returns when what it started has followed: until then its memory can still be read, and rightly is."""
        await asyncio.to_thread(self.kill_now)
        await eventually(lambda: not processes_of(self._process.pid))

    def _ask(self, **command: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the producer ended with status {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


class LocalPeer(Producer):
    """A producer in this process; closing it is its death."""

    @staticmethod
    async def start(settings: dict[str, Any]) -> LocalPeer:
        return LocalPeer(await open_transport(incarnation=os.urandom(16).hex(), **settings))

    def publish_file(self, path: Path) -> Descriptor:
        return self.publish_bytes(path.read_bytes())

    async def kill(self) -> None:
        await self.transport.close()


async def pulled(consumer: Transport, descriptor: Descriptor, timeout: float = 20.0) -> bytes:
    """The payload, by way of a slot that is given back."""
    slot = consumer.pool.lease(descriptor.payload_bytes, "test")
    try:
        await consumer.pull(descriptor, slot, timeout=timeout * SLOWNESS)
        return bytes(slot.payload)
    finally:
        consumer.pool.release(slot)
