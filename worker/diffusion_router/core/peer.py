"""What the core knows of a peer: what it can do, what it is at, and what its pool holds.

Records only, as those of jobs (`state`).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic

from diffusion_router.core.events import Process, R, Stage
from diffusion_router.core.state import Output, Task


class Loss(Enum):
    """How a peer was lost."""

    LEFT = "it was told to leave: what it still computed is not to blame"
    DIED = "another process has taken its place"
    SILENT = "nothing was heard of it for a lease: it may live, out of reach"


class PeerState(Enum):
    READY = "ready"
    SUSPECT = "suspect"
    DRAINING = "draining"
    STALLED = "stalled"


@dataclass(slots=True, eq=False)
class Peer(Generic[R]):
    incarnation: str
    pod_name: str
    stages: frozenset[Stage]
    generation: str
    mode: str
    pulls: str
    model: str
    capacity: int
    slots: int
    prefetch: int
    lease_until: float
    ip: str = ""
    heard_at: float = 0.0
    connected: bool = True
    draining: bool = False
    process: Process | None = None
    schedulers: frozenset[str] = frozenset()
    """That it can denoise by: those that it registered with, as `offers` names them."""
    offered: frozenset[str] = frozenset()
    """Those, and adapters that it can compute with."""
    loaded: frozenset[str] = frozenset()
    """Those in its memory, by its last word, and those that its tasks since then want."""
    computing: Counter[str] = field(default_factory=Counter)
    """Of one that shares forwards among denoisings: those that it computes, by batch."""
    alone_seconds: float = 0.0
    """What it has denoised, in seconds that each step would have taken alone, up to `alone_until`."""
    alone_until: float = 0.0
    stalled: set[str] = field(default_factory=set)
    """Tasks that were told to stop long ago, and did not."""
    tasks: dict[str, Task[R]] = field(default_factory=dict)
    outputs: dict[str, Output[R]] = field(default_factory=dict)
    can_copy: bool = False
    keeps_conditioning: bool = False
    """It denoises, and can copy what encoders made."""
    keeps_until: float = 0.0
    """Of one that leaves: until then what no job needs stays, for others to copy. 0: it was not told to leave."""
    can_checkpoint: bool = False
    copies: dict[str, Task[R]] = field(default_factory=dict)
    """Tasks by which it is to keep copies of others' outputs; they need a slot, and no credit."""
    slots_used: int = 0
    """By its tasks, outputs and copies together."""
    parking: int = 0
    """Tasks that were told to park, and whose places so are as good as free."""
    pool_bytes: int = 0
    """0: it does not say."""
    bytes_used: int = 0
    """By its tasks, outputs and copies together, as far as known."""
    largest: dict[Stage, int] = field(default_factory=dict)
    """Bytes of the largest output that it made."""
    cache_share: float = 0.0
    """Of its pool, how much may be taken by outputs that nobody needs. One that does not encode has that of its
    generation's encoders."""
    cached: OrderedDict[str, Output[R]] = field(default_factory=OrderedDict)
    """These, the one longest unused first; they are among its outputs."""
    cached_bytes: int = 0
    room: int = field(init=False)
    """Slots that its pool turned out to hold, where payloads are too large for all of `slots`, and when it did."""
    full_at: float = 0.0
    needs: dict[Stage, int] = field(init=False)
    """Slots that must be free for a task of each stage, wherever its input lies."""

    def __post_init__(self) -> None:
        self.room = self.slots
        self.needs = {stage: _slots_for(stage, pulled=True) for stage in self.stages}
        if Stage.ENCODE in self.stages and len(self.stages) > 1:
            # A worker of several roles that filled its pool with early outputs could never start the later stage that
            # empties it: one slot is kept back for that.
            self.needs[Stage.ENCODE] += 1

    @property
    def state(self) -> PeerState:
        if not self.connected:
            return PeerState.SUSPECT
        if self.draining:
            return PeerState.DRAINING
        return PeerState.STALLED if self.stalled else PeerState.READY

    @property
    def takes_tasks(self) -> bool:
        return self.connected and not (self.draining or self.stalled)

    @property
    def credits(self) -> int:
        """Tasks that could be sent to it now."""
        return max(0, self.prefetch - self.load) if self.takes_tasks else 0

    @property
    def gathers(self) -> bool:
        """It shares forwards among denoisings: what it has of others decides whether it is the right place."""
        return self.capacity > 1 and Stage.DENOISE in self.stages

    @property
    def denoises(self) -> list[Task[R]]:
        """Its denoisings but those that are parked at their next step, whose places are given to others already."""
        return [task for task in self.tasks.values() if task.stage is Stage.DENOISE and not task.parking]

    @property
    def load(self) -> int:
        """Tasks beyond its capacity."""
        return len(self.tasks) - self.parking - self.capacity

    def may_wait(self, *, early: bool) -> bool:
        """Whether a task may be sent to it now. early: also if it will have to wait long there."""
        load = self.load
        return load < 0 or (load < self.prefetch and (early or any(task.ends_soon for task in self.tasks.values())))

    @property
    def free_slots(self) -> int:
        """Those included that what is cached takes, which gives way."""
        return self.room - self.slots_used + len(self.cached)

    @property
    def overdrawn(self) -> bool:
        """It is to hold more than its pool has room for, unless what is cached gives way."""
        return self.slots_used > self.room or 0 < self.pool_bytes < self.bytes_used

    @property
    def spared(self) -> int:
        """Slots that must stay free when it takes up conditioning of which jobs may go on elsewhere."""
        return max(self.needs.values())

    @property
    def cacheable_slots(self) -> int:
        return int(self.cache_share * self.room)

    @property
    def cacheable_bytes(self) -> float:
        return self.cache_share * self.pool_bytes if self.pool_bytes else math.inf

    def loads_for(self, adapters: frozenset[str]) -> int:
        """How many of these adapters it would have to load first."""
        # One that only encodes offers those that change what it makes, and has nothing to do for others.
        used = adapters if Stage.DENOISE in self.stages else adapters & self.offered
        return len(used - self.loaded)

    def slots_for(self, stage: Stage, source: Output[R] | None) -> int:
        return _slots_for(stage, pulled=self._pulls(source))

    def bytes_for(self, stage: Stage, source: Output[R] | None) -> int:
        """As far as known: its output may be larger than any before."""
        pulled = source.nbytes if source is not None and self._pulls(source) else 0
        return pulled + self.largest.get(stage, 0)

    def _pulls(self, source: Output[R] | None) -> bool:
        return source is not None and source.incarnation != self.incarnation


@dataclass(frozen=True, slots=True)
class Silent:
    """A process of which nothing was heard for a lease, and the jobs that it computed then."""

    process: Process | None
    job_ids: tuple[str, ...]


def _slots_for(stage: Stage, *, pulled: bool) -> int:
    return int(pulled and stage is not Stage.ENCODE) + int(stage is not Stage.DECODE)


def slots_needed(stages: frozenset[Stage]) -> int:
    """Slots without which a worker of these roles could never take its turn: an input that is pulled and an output."""
    return 2 if Stage.DENOISE in stages or len(stages) > 1 else 1
