"""Pull by size and back end, against raw TCP (sendall, recv_into and a one-byte ack) in the same run.

Each round pulls once by every way, so that whatever else the machine does meets all of them alike. Ours include
everything between the control message and checked bytes: request, seal, digest. Medians are what to compare. "copied
out" is what reading them takes after that: into private memory, and a digest of what is there.

    python benchmarks/transfer.py [--backend mooncake|tcp|shm] [--size BYTES] [--seconds N] [--pin]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import structlog
import xxhash
from rich.console import Console
from rich.table import Table

from diffusion_worker.transport import Descriptor, Slot, Transport, open_transport, private_copy
from diffusion_worker.transport.pool import allocate

BACKENDS = ("mooncake", "tcp", "shm")
GOALS = {"mooncake": 1.5, "tcp": 1.1, "shm": 0.3}
SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
PORTS = {"mooncake": 23000, "tcp": 23100, "shm": 23200}
RAW = "raw TCP"
TOUCH = 1 << 20

Pull = Callable[[], Awaitable[None]]


async def open_backend(backend: str, size: int, offset: int) -> Transport:
    return await open_transport(
        backend=backend,
        protocol="tcp",
        fallback="Allow",
        host="127.0.0.1",
        pool_size=size + TOUCH,
        port_min=PORTS[backend] + offset,
        port_max=PORTS[backend] + offset + 31,
        incarnation=os.urandom(16).hex(),
    )


async def serve(backend: str, size: int) -> None:
    """Another process: publishes `size` bytes whenever a line comes in."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    transport = await open_backend(backend, size, 32)
    for line in iter(sys.stdin.readline, ""):
        slot = transport.pool.lease(int(line), "benchmark")
        slot.payload[:] = os.urandom(1 << 12) * (slot.nbytes >> 12)
        print(json.dumps(vars(transport.pool.publish(slot, slot.nbytes))), flush=True)
        sys.stdin.readline()
        transport.pool.release(slot)
    await transport.close()


def serve_raw(size: int) -> None:
    memory = memoryview(allocate(size))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while request := connection.recv(8):
        connection.sendall(memory[: int.from_bytes(request, "little")])
        connection.recv(1)


def spawn(name: str, largest: int, pin: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", name, "--largest", str(largest)]
    if pin:
        command.append("--pin")
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def raw_pull(connection: socket.socket, target: memoryview) -> Pull:
    async def pull() -> None:
        connection.sendall(target.nbytes.to_bytes(8, "little"))
        got = 0
        while got < target.nbytes:
            got += connection.recv_into(target[got:])
        connection.sendall(b"!")

    return pull


def our_pull(transport: Transport, descriptor: Descriptor, slot: Slot) -> Pull:
    async def pull() -> None:
        await transport.pull(descriptor, slot, timeout=30)

    return pull


async def measure(pulls: dict[str, Pull], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in pulls}
    for name in pulls:
        for _ in range(3):
            await pulls[name]()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[RAW]) < 15:
        for name, pull in pulls.items():
            begun = time.perf_counter()
            await pull()
            times[name].append(time.perf_counter() - begun)
    return times


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def copied_out(slot: Slot, digest: int) -> float:
    """Seconds, the median of some."""
    times = []
    for _ in range(15):
        begun = time.perf_counter()
        private_copy(slot, digest)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def row(size: int, times: dict[str, list[float]], digest: float, copied: float) -> list[str]:
    raw = statistics.median(times[RAW])
    cells = [f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"]
    for name, samples in times.items():
        median, late = statistics.median(samples), statistics.quantiles(samples, n=100)[98]
        text = f"{milliseconds(median)} / {milliseconds(late)}"
        if name != RAW:
            met = size < 1 << 20 or median <= GOALS[name] * raw
            text += f"  [{'green' if met else 'red'}]{median / raw:.2f}x[/]"
        cells.append(text)
    return [*cells, milliseconds(digest), milliseconds(copied), f"{size / raw / 1e9:.2f}", str(len(times[RAW]))]


async def bench(backends: list[str], sizes: list[int], seconds: float, pin: bool) -> None:
    largest = max(sizes)
    table = Table(
        "size",
        RAW,
        *backends,
        "digest",
        "copied out",
        "raw GB/s",
        "rounds",
        title="p50 / p99 in ms, ratio of p50 to raw TCP",
    )
    servers = {name: spawn(name, largest, pin) for name in backends}
    raw = spawn(RAW, largest, pin)
    assert raw.stdout is not None
    connection = socket.create_connection(("127.0.0.1", int(raw.stdout.readline())))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transports = {name: await open_backend(name, largest, 0) for name in backends}
    memory = memoryview(allocate(largest))
    for size in sizes:
        pulls = {RAW: raw_pull(connection, memory[:size])}
        slots = {name: transports[name].pool.lease(size, "benchmark") for name in backends}
        digests = {}
        for name in backends:
            descriptor = Descriptor(**json.loads(ask(servers[name], str(size))))
            digests[name] = descriptor.digest
            pulls[name] = our_pull(transports[name], descriptor, slots[name])
        times = await measure(pulls, seconds)
        begun = time.perf_counter()
        xxhash.xxh3_64_intdigest(memory[:size])
        hashed = time.perf_counter() - begun
        copied = statistics.median(copied_out(slots[name], digests[name]) for name in backends)
        table.add_row(*row(size, times, hashed, copied))
        for name in backends:
            transports[name].pool.release(slots[name])
            process = servers[name]
            assert process.stdin is not None
            process.stdin.write("\n")
    Console(width=150).print(table)
    print("Goals from 1 MiB:", ", ".join(f"{name} <= {goal}x" for name, goal in GOALS.items()))
    for transport in transports.values():
        await transport.close()
    for process in (*servers.values(), raw):
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all")
    parser.add_argument("--size", action="append", type=int, help="bytes; default: 4 KiB to 64 MiB")
    parser.add_argument("--seconds", type=float, default=4.0, help="per size")
    parser.add_argument("--pin", action="store_true", help="consumer on core 0, producers on core 1")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pin:
        os.sched_setaffinity(0, {1 if arguments.serve else 0})
    if arguments.serve == RAW:
        serve_raw(arguments.largest)
    elif arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.largest))
    else:
        backends, sizes = arguments.backend or list(BACKENDS), arguments.size or list(SIZES)
        asyncio.run(bench(backends, sizes, arguments.seconds, arguments.pin))


if __name__ == "__main__":
    main()
