"""The one owner of `mooncake.engine`: a guarded wrapper around calls that crash the process when they are wrong.

Runs in a process of its own (`program`), never in the worker's. Destroying an engine keeps Python's interpreter
lock, for one second over TCP and up to two minutes over RDMA, and would stop the worker's heartbeats and its model for
that long; a process can be killed at once, which ends all its transfers.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from diffusion_worker.engine.ports import confine
from diffusion_worker.engine.url import PoolUrl
from diffusionpipeline.process.addresses import host_port

MODULE: Final = "mooncake.engine"
MODES: Final = {"tcp": "mooncake-tcp", "rdma": "mooncake-rdma"}


class EngineUnavailableError(Exception):
    """The engine could not start. The message says what is missing."""


_DONE: Final = 1
_PENDING: Final = 0


class _State(Enum):
    READY = "ready"
    FAILED = "failed"


@dataclass
class Reading:
    """A submitted read. Its batch id is valid until the engine has answered with an end."""

    batch: int | None


class Engine:
    """One initialised engine with one registered region. There is no `close`: its process ends."""

    def __init__(self, native: Any, *, endpoint: str, protocol: str, address: int, size: int) -> None:
        self._native = native
        self._state = _State.READY
        self._address = address
        self._size = size
        self._mode = MODES[protocol]
        self.url = PoolUrl(self._mode, endpoint, address, size)

    @staticmethod
    def open(
        *,
        host: str,
        protocol: str,
        devices: str,
        address: int,
        size: int,
        port_min: int,
        port_max: int,
        patience: float,
        serves: bool,
    ) -> Engine:
        """Initialise and register `size` bytes at `address`. Tries for `patience` seconds: ports may be in TIME-WAIT.

        `serves`: others may connect, by the address of `host` alone; else nobody may. The environment was set by
        whoever started this process: the library reads it when it is imported.
        """
        module = _import(protocol)
        until, pause = time.monotonic() + patience, 0.05
        while True:
            native = module.TransferEngine()
            if native.initialize(host, "P2PHANDSHAKE", protocol, devices) == 0:
                break
            # Almost any call on an engine whose initialisation failed is a crash: let go of it.
            del native
            if time.monotonic() + pause > until:
                raise EngineUnavailableError(
                    f"Mooncake did not start for {protocol} on {host} with ports {port_min} to {port_max} and devices "
                    f"{devices or 'none'} in {patience:g} s: no port of the range is free, or no device is usable"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        port = native.get_rpc_port()
        if not port_min <= port <= port_max:
            raise EngineUnavailableError(
                f"Mooncake listens on {port}, not in {port_min} to {port_max}: it ignores ranges below 1024 or in the "
                "ephemeral ports (32768 to 60999); choose another"
            )
        try:
            confine(host if serves else "")
        except OSError as error:
            raise EngineUnavailableError(
                f"Mooncake listens on all addresses, and can't be held to {host} ({error.strerror or error}), though "
                "whoever reaches it can write this worker's pool: use a kernel that lets sockets be bound to an "
                "interface (Linux 5.7), or choose spec.transport.backend: tcp"
            ) from error
        # The batch form, even for one region: it lets go of the interpreter lock.
        if (code := native.batch_register_memory([address], [size])) != 0:
            raise EngineUnavailableError(
                f"Mooncake can't register a pool of {size} bytes (code {code}): raise the locked-memory limit (RDMA "
                "needs IPC_LOCK or an unlimited memlock), or lower spec.transport.poolSize"
            )
        return Engine(native, endpoint=host_port(host, port), protocol=protocol, address=address, size=size)

    def submit(self, url: PoolUrl, *, local: int, remote: int, length: int) -> Reading | None:
        """Begin to read `length` bytes at `remote` into `local`, both addresses. None if the engine refused.

        First contact with a frozen peer blocks for a minute.
        """
        if url.mode != self._mode:
            raise ValueError(f"{url} can't be reached by {self._mode}")
        url.check(remote, length)
        if local < self._address or local + length > self._address + self._size:
            raise ValueError(f"{length} bytes at {local:#x} are not in this worker's pool")
        if self._state is not _State.READY:
            return None
        batch = self._native.batch_transfer_async_read(url.endpoint, [local], [remote], [length])
        if batch == 0:
            self._state = _State.FAILED
            return None
        return Reading(batch)

    def poll(self, reading: Reading) -> bool | None:
        """True when all bytes are there, None while they are not, False if it failed; then never ask again."""
        if reading.batch is None:
            raise ValueError("this read has ended; asking the engine again would crash it")
        code = self._native.transfer_check_status(reading.batch)
        if code == _PENDING:
            return None
        reading.batch = None
        if code != _DONE:
            self._state = _State.FAILED
        return bool(code == _DONE)


def _import(protocol: str) -> Any:
    if MODULE in sys.modules:
        raise EngineUnavailableError(f"{MODULE} is already imported: it took its settings from the environment then")
    forced, other = ("MC_FORCE_HCA", "MC_FORCE_TCP") if protocol == "rdma" else ("MC_FORCE_TCP", "MC_FORCE_HCA")
    if os.environ.get(forced) != "1" or other in os.environ:
        raise EngineUnavailableError(
            f"{forced}=1, and not {other}, must be set before {MODULE} is imported for {protocol}"
        )
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise EngineUnavailableError(
            f"Mooncake can't be loaded ({error}): install the extra mooncake or mooncake-cpu, and libibverbs1, "
            "libnuma1 and libcurl4; or choose spec.transport.backend: tcp"
        ) from error
