"""What the operator saw of one pipeline, as plain values: all that a status is made of, besides the resource itself.

The live objects are large and many; what a status needs of them is small. So they are projected to these values when
they arrive (see `pods`, `events` and `workloads`), and the functions that make a status need no cluster to be tested.

Texts must be the same for as long as the state is: whatever moves by itself (times, counters, addresses) would have
the status written again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from diffusion_operator.api import Role
from diffusion_operator.status.phases import Phase
from diffusion_operator.update.surge import Tally

FaultReason = Literal["ApplyFailed", "ImmutableFieldChanged", "InvalidSpec", "Forbidden", "NameConflict"]
RefusalReason = Literal["NamespacePodSecurity", "QuotaExceeded", "PodsRefused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PodProblem:
    """What keeps one pod from being ready."""

    pod: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why the StatefulSet controller could not create pods."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What kept the last reconcile from applying everything."""

    reason: FaultReason
    message: str
    """Names the object, the field and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleObserved:
    """One role's StatefulSet and its pods."""

    exists: bool
    desired: int
    replicas: int
    ready: int
    available: int
    updated: int
    current_revision: str
    update_revision: str
    observed: bool
    """The StatefulSet controller has seen the current spec: its counts speak of it."""
    problems: tuple[PodProblem, ...] = ()
    starting: Mapping[Phase, int] = field(default_factory=dict)
    """Pods without a problem, by how far they are."""
    refusals: tuple[Refusal, ...] = ()
    """Events outlive what they tell of, so these count only while pods are missing."""
    held: int = 0
    """Pods that the update strategy (a partition, or OnDelete) leaves at their revision."""
    generation: str = ""
    """That of the pods its template makes. Empty for the router, which belongs to none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedSeen:
    """What a peer found when it tried the way to another."""

    maker: Role
    """Whose outputs come that way."""
    pod: str
    bytes_per_second: float
    error: str
    """Why it fails, again and again. Empty: it does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerSeen:
    """A peer as the router lists it."""

    pod: str
    roles: tuple[Role, ...]
    generation: str
    mode: str
    """Of its pool: mooncake-rdma, mooncake-tcp, tcp, shm or memory. Empty: not told yet."""
    state: str
    """ready, suspect, draining or stalled."""
    pulls: str = ""
    """The mode by which its inputs come, if that is another than its pool's."""
    bytes_per_second: float | None = None
    """Of a pull from itself, when it started. None: a worker that did not measure."""
    probed: tuple[ProbedSeen, ...] = ()
    """One for each stage whose outputs it reads, as far as it has met a peer that makes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadingSeen:
    """A worker that downloads its share of the model, as the router lists it."""

    pod: str
    roles: tuple[Role, ...]
    generation: str
    bytes: int
    """That are there. It moves by itself, so it is told in whole percents."""
    size: int
    """Bytes of the share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeersObserved:
    """The router's answer, or that there was none."""

    reachable: bool
    error: str = ""
    """Why there was none, in words that do not change from call to call: the gRPC status, not its details."""
    peers: tuple[PeerSeen, ...] = ()
    loading: tuple[LoadingSeen, ...] = ()
    idle: bool | None = None
    """No job is unfinished. None: a router of an earlier version does not say."""
    shares: Mapping[str, int] = field(default_factory=dict)
    """Percent of new jobs by generation. Empty: they begin in any."""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    """By generation, while one takes over from another; else its numbers would move with every answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateObserved:
    """What pods are made of, and what this operator would make them of."""

    operator: str
    """Its version."""
    current: str
    """A digest of templates."""
    available: str = ""
    """That of this operator's, if they are others."""
    changes: tuple[str, ...] = ()
    """What would change, by role and field."""
    waits: str = ""
    """The reason why the pipeline does not move now."""
    refused: str = ""
    """Why it went back from what is available, if it did."""
    surge: SurgeObserved | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SurgeObserved:
    """A generation that takes over."""

    digest: str
    generation: str
    percent: int
    since: datetime
    waits: str
    """What the next step waits for, besides time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything that was seen of one pipeline at one time."""

    generation: int
    """The resource's metadata.generation."""
    roles: Mapping[Role, RoleObserved]
    """Roles that have a StatefulSet of their own. A colocated role is the denoiser's."""
    fault: Fault | None = None
    peers: PeersObserved | None = None
    """None: the router was not asked yet."""
    scaling_faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out on purpose, such as a PodMonitor in a cluster that has no such kind."""
    cache_fault: str = ""
    """Why workers can't start from the ModelCache that the resource names. Empty: they can, or it names none."""
    update: UpdateObserved | None = None
    """None: it was not found out yet."""
    rdma_resources: tuple[str, ...] | None = None
    """RDMA resources that nodes offer. None: nodes could not be listed."""
