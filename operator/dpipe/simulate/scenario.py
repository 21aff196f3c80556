"""What is played, and what came of it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from diffusion_router.core import Priority, Stage
from dpipe.simulate.faults import Fault
from dpipe.simulate.fleet import Fleet
from dpipe.simulate.jobs import End
from dpipe.simulate.load import Load


@dataclass(frozen=True)
class Scenario:
    """target_factor: a job should end within so many times what it takes alone. latency: seconds that a message takes
    at most; each stream has its own. max_queued: jobs that may wait; who comes when there are as many is refused, as is
    who would end after the deadline of the request. Nobody who is refused comes back."""

    name: str
    fleet: Fleet
    load: Load
    target_factor: float = 3.0
    faults: Callable[[random.Random], Iterator[Fault]] | None = None
    latency: float = 0.0
    adapters: frozenset[str] = frozenset()
    max_queued: float = math.inf


@dataclass
class Outcome:
    """What came of a run. computed: tasks that ended by stage. busy: by role, seconds that its peers computed. peers:
    by role. adapted: jobs that asked for an adapter."""

    ends: list[End] = field(default_factory=list)
    refused: Counter[tuple[str, Priority]] = field(default_factory=Counter)
    """Jobs that would have been, by shape and priority."""
    seconds: float = 0.0
    events: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    computed: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(Stage, 0))
    keys: int = 0
    """Distinct conditionings."""
    parks: int = 0
    moved: int = 0
    """Checkpoints that another peer went on from."""
    again_steps: int = 0
    again_seconds: float = 0.0
    loads: int = 0
    adapted: int = 0
    busy: dict[str, float] = field(default_factory=dict)
    peers: dict[str, int] = field(default_factory=dict)
