"""Denoisers that share forwards, and jobs by their batches."""

from __future__ import annotations

from typing import Any

from diffusion_router.core import ForwardTime, PeerHeartbeat, Policy, Stage
from unit.core.workers import Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage
FORWARD = "UNet 4x8x8"


class Bed:
    """Denoisers that begin what they are sent, and make no step."""

    def __init__(
        self,
        denoisers: int = 2,
        capacity: int = 4,
        policy: Policy | None = None,
        *,
        resumable: bool = False,
        seconds: float = 100.0,
    ) -> None:
        """seconds: that a denoising takes, as far as is known."""
        self.world = World() if policy is None else World(policy)
        self.world.core.estimates.learn(DENOISE, "", seconds)
        self.encoder = self.world.spawn(ENCODE, capacity=64, slots=64)
        settings = {"capacity": capacity, "slots": 64, "resumable": resumable}
        self.denoisers = [self.world.spawn(DENOISE, **settings) for _ in range(denoisers)]

    def ask(self, *batches: str, **order: Any) -> list[str]:
        jobs = [self.world.submit(batch=batch, **order) for batch in batches]
        self.world.deliver_all()
        for _ in range(8 * len(batches)):
            if not self.encoder.tasks:
                break
            self.world.work(self.encoder)
            self.world.deliver_all()
        self.begin()
        return jobs

    def begin(self) -> None:
        for denoiser in self.denoisers:
            for index in range(len(denoiser.tasks)):
                for _ in range(3):
                    if not list(denoiser.tasks.values())[index].step:
                        self.world.work(denoiser, index)
        self.world.deliver_all()

    def finish(self, denoiser: Worker) -> None:
        """All that it denoises."""
        until = set(denoiser.tasks)
        for _ in range(100):
            if not until & denoiser.tasks.keys():
                break
            self.world.work(denoiser)
            self.world.deliver_all()
        self.begin()

    def measure(self, *, batch: str, together: dict[int, float]) -> None:
        denoiser = self.denoisers[0]
        times = tuple(ForwardTime(f"{FORWARD} of {batch}", number, seconds) for number, seconds in together.items())
        self.world.core.batches.makes(denoiser.generation, batch, f"{FORWARD} of {batch}")
        self.world.tell(PeerHeartbeat(denoiser.incarnation, forwards=times))

    @property
    def shares(self) -> list[list[str]]:
        """Batches of what each denoiser has."""
        batches = {job_id: job.batch for job_id, job in self.world.store.items()}
        return [sorted(batches[held.execute.job_id] for held in denoiser.tasks.values()) for denoiser in self.denoisers]
