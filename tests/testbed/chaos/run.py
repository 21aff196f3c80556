"""Chaos: a pipeline of real processes, clients that check what they are told, and faults as fast as it bears them.

Every accepted job must end once (I1, I6, I7), with the right bytes, or as the poison that two kills make of it (I11);
afterwards slots, credits and descriptors must be back. What is computed twice, and how memory has grown, is reported.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from diffusion_operator.api import load_pipeline
from dpipe.up.local import LocalPipeline
from dpipe.up.ports import free_ports
from testbed.chaos import faulty_router
from testbed.chaos.clients import STEPS, Client, Promises
from testbed.chaos.faults import FAULTS, LEASE_SECONDS, STALL_SECONDS, Fault, Scene
from testbed.chaos.relay import Relay
from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, Load, at_rest, draw, ready
from testbed.waiting import TooLate, eventually

Mode = Literal["mooncake", "tcp", "shm"]
MODES: Final[tuple[Mode, ...]] = ("mooncake", "tcp", "shm")
_REST_SECONDS: Final = 120.0
_GAP: Final = (0.5, 2.5)
_AT_ONCE: Final = 2
"""Faults that may overlap."""
HANGING: Final = Path(__file__).parents[2] / "integration/faults/hanging_denoiser.py"


@dataclass
class Outcome:
    mode: Mode
    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    promises: Promises = field(default_factory=Promises)
    restarts: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    """At rest before, and after; of a pod whose process was started again, that of the new one."""
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The same, in MiB."""

    @property
    def broken(self) -> list[str]:
        return self.promises.broken

    def table(self) -> str:
        promises = self.promises
        waits = sorted(promises.waits) or [0.0]
        lines = [
            f"{self.mode}, seed {self.seed}: {sum(self.faults.values())} faults in {self.seconds:.0f} s",
            "  " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
            f"  {len(promises.accepted)} accepted jobs: "
            + ", ".join(f"{name} {count}" for name, count in sorted(promises.counts.items())),
            f"  answered after {waits[len(waits) // 2]:.1f} s (median), {waits[-1]:.1f} s (longest)",
            f"  stages tried again: {dict(promises.repeated)}; processes started again: {self.restarts}",
            f"  descriptors before and after: {self.descriptors}",
            f"  memory in MiB before and after: {self.memory}",
            *(f"  BROKEN: {what}" for what in self.broken),
        ]
        return "\n".join(lines)


async def chaos(mode: Mode, seed: int, seconds: float, folder: Path, *, clients: int = 4) -> Outcome:
    """One run. Raises only where the pipeline cannot be started."""
    outcome = Outcome(mode, seed)
    control, hang = folder / "control", folder / "hang"
    control.mkdir(parents=True)
    (relay_port,) = free_ports(1)
    pipeline = load_pipeline(_document(mode, relay_port, control, hang))
    with LocalPipeline(pipeline, data_dir=folder / "data") as local:
        host, _, port = local.grpc_address.rpartition(":")
        relay = Relay((host, int(port)))
        await relay.start(relay_port)
        try:
            await eventually(lambda: asyncio.to_thread(_is_at_rest, local), STARTUP_SECONDS, "all workers are there")
            await _learn(local, outcome.promises)
            before = _processes(local)
            scene = Scene(local, relay, control, hang, random.Random(seed))
            await _play(scene, outcome, seconds, clients)
            hang.unlink(missing_ok=True)
            await _come_to_rest(local, outcome)
            _compare(before, _processes(local), outcome)
        finally:
            await relay.stop()
    return outcome


def _document(mode: Mode, relay_port: int, control: Path, hang: Path) -> dict[str, Any]:
    document = resource("digits", router__leaseSeconds=LEASE_SECONDS, roles__denoiser__replicas=2)
    spec = document["spec"]
    spec["transport"]["backend"] = mode
    if mode != "mooncake":
        del spec["transport"]["protocol"]
    env = {
        "DIFFUSION_WORKER_ROUTER": f"127.0.0.1:{relay_port}",
        "DIFFUSION_WORKER_STALL_SECONDS": str(STALL_SECONDS),
        "DIFFUSION_WORKER_STALL_FIRST_SECONDS": "60",
        "DIFFUSION_WORKER_DRAIN_SECONDS": "5",
        "OMP_NUM_THREADS": "1",
    }
    for role in ("encoder", "denoiser", "decoder"):
        spec["roles"].setdefault(role, {})["env"] = [{"name": name, "value": value} for name, value in env.items()]
    _command(spec["roles"]["denoiser"], HANGING, hang)
    router = spec["roles"].setdefault("router", {})
    router["env"] = [
        {"name": "DIFFUSION_ROUTER_RETAIN_SECONDS", "value": "86400"},
        {"name": "DIFFUSION_ROUTER_STORE_TIMEOUT_SECONDS", "value": "4"},
        # Of the faulty router, which plays what the test bed has.
        {"name": "PYTHONPATH", "value": str(Path(__file__).parents[2])},
    ]
    _command(router, Path(faulty_router.__file__), control)
    return document


def _command(role: dict[str, Any], program: Path, argument: Path) -> None:
    container = {"name": "main", "command": ["python", str(program), str(argument)]}
    role["podTemplate"] = {"spec": {"containers": [container]}}


async def _learn(local: LocalPipeline, promises: Promises) -> None:
    async with httpx.AsyncClient(base_url=local.http_url) as http:
        for prompt, seed in Load.REQUESTS:
            answer = await draw(http, prompt, seed, num_inference_steps=STEPS)
            promises.expected[answer.request] = answer.picture


async def _play(scene: Scene, outcome: Outcome, seconds: float, clients: int) -> None:
    stop = asyncio.Event()
    begun = time.monotonic()
    askers = [Client(scene.local.http_url, outcome.promises, outcome.seed * 100 + number) for number in range(clients)]
    asking = [asyncio.create_task(asker.run(stop)) for asker in askers]
    room = asyncio.Semaphore(_AT_ONCE)
    doing: dict[asyncio.Task[None], Fault] = {}
    while time.monotonic() - begun < seconds:
        await room.acquire()
        free = {fault: weight for fault, weight in FAULTS.items() if fault not in doing.values()}
        (fault,) = scene.random.choices(list(free), list(free.values()))
        outcome.faults[fault.__name__] += 1
        task: asyncio.Task[None] = asyncio.create_task(fault(scene))  # type: ignore[arg-type]
        doing[task] = fault
        task.add_done_callback(lambda task: (doing.pop(task), room.release()))
        await asyncio.sleep(scene.random.uniform(*_GAP))
    await asyncio.gather(*doing)
    stop.set()
    await asyncio.gather(*asking)
    outcome.seconds = time.monotonic() - begun


async def _come_to_rest(local: LocalPipeline, outcome: Outcome) -> None:
    checker = Client(local.http_url, outcome.promises, 0)
    try:
        await eventually(lambda: asyncio.to_thread(_is_at_rest, local), _REST_SECONDS, "all is given back", pause=0.2)
    except TooLate as error:
        outcome.broken.append(f"slots, outputs or tasks were not given back: {error}")
    await checker.check_again()
    outcome.restarts = {pod.name: pod.restarts for pod in local.pods.values() if pod.restarts}


def _is_at_rest(local: LocalPipeline) -> bool:
    return ready(local) and not local.unready() and at_rest(local)


def _processes(local: LocalPipeline) -> dict[str, tuple[int, int]]:
    """Open descriptors and MiB of memory of each pod's process."""
    found = {}
    for pod in local.pods.values():
        if pod.pid is not None:
            proc = Path(f"/proc/{pod.pid}")
            pages = int((proc / "statm").read_text().split()[1])
            found[pod.name] = (len(list((proc / "fd").iterdir())), pages * 4096 >> 20)
    return found


def _compare(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], outcome: Outcome) -> None:
    for name in before.keys() & after.keys():
        outcome.descriptors[name] = (before[name][0], after[name][0])
        outcome.memory[name] = (before[name][1], after[name][1])
