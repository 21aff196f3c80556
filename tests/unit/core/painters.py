"""A pipeline in virtual time whose denoisers load adapters when tasks name them, and drop the least recently used."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Mapping

from diffusion_router.core import Adapters, Execute, PeerHeartbeat, Policy, Stage
from unit.core.timed import POLICY, Admitted, Pipeline

TOLD_SECONDS = 5.0
"""Between two heartbeats."""


class Painters(Pipeline):
    """room: adapters that a denoiser holds at once. seconds: of each stage, give or take 30 %; load: of an adapter."""

    def __init__(
        self,
        denoisers: int,
        names: Collection[str],
        *,
        room: int,
        seconds: Mapping[Stage, float],
        load: float,
        seed: int = 0,
        policy: Policy = POLICY,
    ) -> None:
        fleet = {frozenset({stage}): denoisers if stage is Stage.DENOISE else 1 for stage in Stage}
        super().__init__(fleet, lambda stage, _: seconds[stage], seed=seed, max_queued=10**9, policy=policy)
        self.loads = 0
        self._names, self._room, self._load, self._seed = frozenset(names), room, load, seed
        painters = [name for name, peer in self.core.peers.items() if Stage.DENOISE in peer.stages]
        self._memory: dict[str, OrderedDict[str, None]] = {name: OrderedDict() for name in painters}
        for name in painters:
            self._tell(name)

    def takes(self, task: Execute, job: Admitted) -> float:
        # A job's own, wherever and whenever it runs: what is compared differs in nothing but its places.
        drawn = random.Random(f"{self._seed} {task.job_id} {task.stage.name}")
        seconds = super().takes(task, job) * drawn.uniform(0.7, 1.3)
        for adapter in job.adapters if task.stage is Stage.DENOISE else ():
            memory = self._memory[task.incarnation]
            if adapter not in memory:
                self.loads += 1
                seconds += self._load
                self.at(self.now - self.now % TOLD_SECONDS + TOLD_SECONDS, lambda: self._tell(task.incarnation))
            memory[adapter] = None
            memory.move_to_end(adapter)
            if len(memory) > self._room:
                memory.popitem(last=False)
        return seconds

    def _tell(self, name: str) -> None:
        self.tell(PeerHeartbeat(name, adapters=Adapters(self._names, frozenset(self._memory[name]))))
