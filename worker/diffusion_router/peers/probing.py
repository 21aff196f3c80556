"""Who tries the way to whom: each reader of a stage's outputs pulls the probe of one peer that makes them.

So what lies between nodes is known before a job depends on it. A pair is made as soon as both are there, whoever came
first; when the maker goes before the pull worked, another takes its place, and what was said of it is void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from diffusionpipeline.v1 import peer_pb2, stage_pb2

# Of workers' protocol.
_KNOWS_PROBES: Final = 2
_READ: Final = (stage_pb2.STAGE_ENCODE, stage_pb2.STAGE_DENOISE)


@dataclass(slots=True, eq=False)
class Prober:
    """A peer that is here, as maker and as reader."""

    register: peer_pb2.Register
    reads: list[stage_pb2.Stage.ValueType] = field(init=False)
    """Stages whose outputs come from other peers."""
    found: dict[int, peer_pb2.Probed] = field(default_factory=dict)
    """What it said last of each stage whose outputs it reads."""
    tries: dict[int, str] = field(default_factory=dict)
    """The incarnation that it was told to try."""

    def __post_init__(self) -> None:
        # A role's number is that of its stage.
        roles = {int(role) for role in self.register.roles} if self.register.protocol >= _KNOWS_PROBES else set()
        self.reads = [stage for stage in _READ if stage + 1 in roles and stage not in roles]
        for probed in self.register.probed:
            self.hear(probed)

    def hear(self, probed: peer_pb2.Probed) -> None:
        if probed.stage in self.reads:
            self.found[probed.stage] = probed

    def settled(self, stage: int) -> bool:
        return stage in self.found and not self.found[stage].error


def pair(peers: Mapping[str, Prober]) -> Iterator[tuple[str, peer_pb2.Probe]]:
    """Which incarnation is to be told what now, of those that are here. Done again after every coming and going: it
    tells nobody the same twice."""
    makers = {name: peer.register for name, peer in peers.items() if peer.register.HasField("probe")}
    asked = Counter(maker for peer in peers.values() for maker in peer.tries.values())
    for name, reader in peers.items():
        for stage in reader.reads:
            if reader.settled(stage) or reader.tries.get(stage) in makers:
                continue
            able = [
                maker
                for maker in makers.values()
                if stage in map(int, maker.roles) and maker.generation == reader.register.generation
            ]
            gone = reader.tries.pop(stage, None)
            failed = reader.found.pop(stage, None) if gone or not able else None
            if able:
                maker = min(able, key=lambda one: asked[one.incarnation])
                reader.tries[stage] = maker.incarnation
                asked[maker.incarnation] += 1
                yield name, peer_pb2.Probe(stage=stage, pod_name=maker.pod_name, payload=maker.probe)
            elif gone or failed:
                yield name, peer_pb2.Probe(stage=stage)
