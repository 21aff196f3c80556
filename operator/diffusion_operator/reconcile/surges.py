"""A generation that takes over from another: what of it is seen, and what becomes of it (see `update.surge`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.cluster.kinds import STATEFUL_SET, Object
from diffusion_operator.cluster.store import Store
from diffusion_operator.reconcile.apply import Owner
from diffusion_operator.render import Made, names
from diffusion_operator.status import workloads
from diffusion_operator.status.finding import parse_time
from diffusion_operator.status.observed import PeersObserved, SurgeObserved
from diffusion_operator.status.roles import is_done
from diffusion_operator.update import surge
from diffusion_operator.update.revision import Revision

_SOON_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Surging:
    revision: Revision
    made: Made
    shares: Mapping[str, int]
    seen: SurgeObserved | None
    again: float | None


class Surges:
    def __init__(self, store: Store) -> None:
        self._store = store

    def step(
        self,
        pipeline: Pipeline,
        owner: Owner,
        revision: Revision,
        resource: Object,
        peers: PeersObserved | None,
        counts: Mapping[Role, int],
        now: datetime,
    ) -> Surging | None:
        """None: no generation is taking over."""
        if revision.candidate is None or pipeline.update.surge is None:
            return None
        told, written = _told(peers), _progress(resource)
        lacking = self._lacking(pipeline, owner, revision, peers, counts)
        found = surge.step(
            pipeline.update.surge,
            revision,
            written,
            surge.Seen(
                ready=not lacking, cause=lacking, shares=told, tallies=peers.tallies if peers is not None else {}
            ),
            startup_seconds=max(pipeline.roles[role].startup_seconds for role in revision.candidate.pods),
            now=now,
        )
        if found.verdict != "go on":
            ended = surge.promoted(revision) if found.verdict == "promote" else surge.gone_back(revision, found.why)
            return Surging(ended, ended.made, surge.shares(ended), None, None)
        at = found.progress
        # Before the router knows the shares, jobs would begin wherever there is a place.
        may_come = at.generation in (told or {}) or self._exists(pipeline, owner, revision)
        made = revision.made if may_come else Made(revision.templates, revision.track)
        seen = SurgeObserved(
            digest=at.digest,
            generation=at.generation,
            percent=at.percent,
            since=at.since,
            waits=found.why if may_come else "the router has not taken the shares yet",
        )
        # A step that is written is to be told.
        again = found.again if at == surge.of_this(revision, written) else _SOON_SECONDS
        return Surging(revision, made, surge.shares(revision, written), seen, again)

    def _exists(self, pipeline: Pipeline, owner: Owner, revision: Revision) -> bool:
        name = names.child(pipeline, Role.DENOISER, revision.other_track)
        return self._store.child(owner.key, STATEFUL_SET, name) is not None

    def _lacking(
        self,
        pipeline: Pipeline,
        owner: Owner,
        revision: Revision,
        peers: PeersObserved | None,
        counts: Mapping[Role, int],
    ) -> str:
        """What is not there yet of the generation that takes over; empty: nothing."""
        assert revision.candidate is not None
        generation, expected, lacking = revision.candidate.generation, 0, []
        for spec, _ in pipeline.workers():
            child = self._store.child(owner.key, STATEFUL_SET, names.child(pipeline, spec.role, revision.other_track))
            wanted = pipeline.count(spec.role, counts)
            seen = workloads.role(None if child is None else child.packed.unpack(), wanted)
            expected += wanted
            if not is_done(seen) or seen.generation != generation:
                lacking.append(f"{spec.role} {min(seen.ready, wanted)} of {wanted}")
        if lacking:
            return f"pods of generation {generation} that are ready: {', '.join(lacking)}"
        ready = sum(
            peer.generation == generation and peer.state == "ready"
            for peer in (peers.peers if peers is not None else ())
        )
        return f"{ready} of {expected} peers of generation {generation} are registered" if ready < expected else ""


def _told(peers: PeersObserved | None) -> Mapping[str, int] | None:
    return peers.shares if peers is not None and peers.reachable else None


def _progress(resource: Object) -> surge.Progress | None:
    """As the status before has it. Without one, as in a restored backup, it begins anew."""
    said = ((resource.get("status") or {}).get("update") or {}).get("surge")
    if not said:
        return None
    return surge.Progress(said["digest"], said["generation"], said["percent"], parse_time(said["since"]))
