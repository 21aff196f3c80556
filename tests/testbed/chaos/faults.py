"""What goes wrong. Each fault does its harm, mends it after a while, and says what it did."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from dpipe.up.local import LocalPipeline
from dpipe.up.process import LocalPod
from testbed.chaos.relay import Relay

LEASE_SECONDS = 5
STALL_SECONDS = 5
DAYS = 2 * 86_400


@dataclass
class Scene:
    """All that faults can lay hands on. `control`: the folder of `faulty_router`; `hang`: the file of the denoisers."""

    local: LocalPipeline
    relay: Relay
    control: Path
    hang: Path
    random: random.Random

    def worker(self) -> LocalPod:
        return self.random.choice(self.local.workers)

    async def file_for(self, name: str, seconds: float) -> None:
        path = self.control / name
        path.touch()
        try:
            await asyncio.sleep(seconds)
        finally:
            path.unlink(missing_ok=True)


Fault = Callable[[Scene], Awaitable[None]]


async def kill_worker(scene: Scene) -> None:
    scene.worker().signal(signal.SIGKILL)


async def kill_router(scene: Scene) -> None:
    scene.local.router.signal(signal.SIGKILL)


async def leave(scene: Scene) -> None:
    scene.worker().signal(signal.SIGTERM)


async def _freeze(pod: LocalPod, seconds: float) -> None:
    pod.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        pod.signal(signal.SIGCONT)


async def freeze_worker_shortly(scene: Scene) -> None:
    await _freeze(scene.worker(), scene.random.uniform(0.2, LEASE_SECONDS * 0.6))


async def freeze_worker_beyond_its_lease(scene: Scene) -> None:
    await _freeze(scene.worker(), LEASE_SECONDS * scene.random.uniform(1.2, 2.0))


async def freeze_router(scene: Scene) -> None:
    await _freeze(scene.local.router, scene.random.uniform(0.2, LEASE_SECONDS * 1.5))


async def cut_connections(scene: Scene) -> None:
    scene.relay.cut()


async def partition(scene: Scene) -> None:
    scene.relay.hold()
    try:
        await asyncio.sleep(scene.random.uniform(0.5, LEASE_SECONDS * 1.5))
    finally:
        scene.relay.let_go()


async def hang_a_denoiser(scene: Scene) -> None:
    scene.hang.touch()
    await asyncio.sleep(STALL_SECONDS)


async def slow_disk(scene: Scene) -> None:
    await scene.file_for("slow", scene.random.uniform(0.5, 6.0))


async def very_slow_disk(scene: Scene) -> None:
    await scene.file_for("slow", 40.0)


async def full_disk(scene: Scene) -> None:
    await scene.file_for("full", scene.random.uniform(0.5, 4.0))


async def full_artifact_store(scene: Scene) -> None:
    await scene.file_for("files-full", scene.random.uniform(0.5, 4.0))


async def clock_jump(scene: Scene) -> None:
    """Ahead, and never back: what is kept for two days longer at each jump back would tell nothing."""
    file = scene.control / "clock"
    wrong = float(file.read_text()) if file.exists() else 0.0
    part = file.with_suffix(".part")
    part.write_text(str(wrong + DAYS))
    part.replace(file)


FAULTS: dict[Fault, float] = {
    kill_worker: 2,
    kill_router: 1.5,
    leave: 1.5,
    freeze_worker_shortly: 6,
    freeze_worker_beyond_its_lease: 3,
    freeze_router: 4,
    cut_connections: 8,
    partition: 5,
    hang_a_denoiser: 1,
    slow_disk: 5,
    very_slow_disk: 0.2,
    full_disk: 5,
    full_artifact_store: 5,
    clock_jump: 2,
}
