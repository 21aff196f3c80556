"""Of which templates a pipeline's pods are made, and when it moves to those of this operator (see `update.decide`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from diffusion_operator.api import Pipeline, Platform, Role
from diffusion_operator.cluster.client import FIELD_MANAGER, ApiError, Cluster
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import CONFIG_MAP, CONTROLLER_REVISION, STATEFUL_SET, Object
from diffusion_operator.cluster.store import Store
from diffusion_operator.reconcile.apply import Owner
from diffusion_operator.reconcile.surges import Surges
from diffusion_operator.reconcile.turns import Turns
from diffusion_operator.render import Images, Made, Templates, names, templates
from diffusion_operator.render.difference import differences
from diffusion_operator.render.templates import TRACKS
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import PeersObserved, UpdateObserved
from diffusion_operator.status.standing import is_at_rest, is_settled
from diffusion_operator.update.decide import Decision, decide
from diffusion_operator.update.owned import owned
from diffusion_operator.update.revision import Revision, latest, newest_first
from diffusion_operator.update.surge import shares
from diffusion_operator.update.windows import opens_in

# A clock may be set, and a list of windows be edited.
_LOOK_AGAIN_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Outcome:
    decision: Decision
    seen: UpdateObserved
    again: float | None
    """Seconds until it may be otherwise."""
    made: Made
    """Of what pods are to be made now."""
    shares: Mapping[str, int]
    """Percent of new jobs by generation that the router is to be told."""

    @property
    def is_final(self) -> bool:
        """Neither time nor other pipelines make it another."""
        return not self.seen.available and self.decision.revision.candidate is None


class Updates:
    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        *,
        images: Images,
        platform: Platform,
        version: str,
        at_once: int,
        wake: Callable[[Key], None],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._images = images
        self._platform = platform
        self._version = version
        self._turns = Turns(at_once, wake)
        self._surges = Surges(store)
        self._begun = False

    async def decide(
        self,
        pipeline: Pipeline,
        owner: Owner,
        resource: Object,
        *,
        peers: PeersObserved | None,
        counts: Mapping[Role, int],
        now: datetime,
    ) -> Outcome:
        """peers: what the router said, if it did. counts: pods that scalers ask for. Raises ApiError, Unreachable."""
        self._begin()
        settled = is_settled(resource)
        kept = newest_first(self.revisions(owner))
        written = kept[0] if kept else await self._adopted(pipeline, owner, resource, settled=settled)

        def decided(*, moves: bool) -> Decision:
            return decide(
                resource,
                pipeline,
                self._images,
                written,
                settled=settled,
                moves=moves,
                kept=kept,
                platform=self._platform,
            )

        decision = decided(moves=False)
        idle = peers.idle if peers is not None else None
        waits, again = self._waits(pipeline, owner.key, resource, decision, idle, now)
        if decision.available and not waits:
            decision = decided(moves=True)
        surge = self._surges.step(pipeline, owner, decision.revision, resource, peers, counts, now)
        if surge is not None:
            decision, again = replace(decision, revision=surge.revision), sooner(again, surge.again)
        refused = decision.revision.refused
        seen = UpdateObserved(
            operator=self._version,
            current=decision.revision.digest,
            available=decision.available or (refused.digest if refused is not None else ""),
            changes=decision.changes,
            waits=reasons.ROLLED_BACK if refused is not None else waits,
            refused=refused.why if refused is not None else "",
            surge=surge.seen if surge is not None else None,
        )
        return Outcome(
            decision,
            seen,
            again,
            made=surge.made if surge is not None else decision.revision.made,
            shares=surge.shares if surge is not None else shares(decision.revision),
        )

    def revisions(self, owner: Owner) -> list[Object]:
        return [
            child.packed.unpack()
            for child in self._store.children(owner.key).values()
            if child.kind is CONTROLLER_REVISION and child.owner == owner.uid and not child.deleting
        ]

    def reached(self, key: Key, status: Mapping[str, Any]) -> None:
        """To be told of every status: a pipeline that is ready again, of one generation, has moved."""
        if self._turns.has(key) and is_at_rest(status) and not status.get("update", {}).get("surge"):
            self._turns.give_back(key)

    def forget(self, key: Key) -> None:
        self._turns.give_back(key)

    def _waits(
        self,
        pipeline: Pipeline,
        key: Key,
        resource: Object,
        decision: Decision,
        idle: bool | None,
        now: datetime,
    ) -> tuple[str, float | None]:
        """Why it does not move now, in a word, and when to look again; takes its turn if nothing else is in the way."""
        if not decision.available:
            return "", None
        waits, again = "", None
        refused = decision.revision.refused
        if refused is not None and refused.digest == decision.available not in pipeline.update.to:
            waits = reasons.ROLLED_BACK
        elif not pipeline.update.to & {decision.available, self._version}:
            waits, again = _unasked(pipeline, resource, idle, now)
        if waits:
            if not self._turns.has(key):
                self._turns.give_back(key)
            return waits, again
        return ("" if self._turns.take(key) else reasons.WAITS_FOR_TURN), None

    def _begin(self) -> None:
        """Pipelines that an earlier process let move keep their turns."""
        if self._begun:
            return
        self._begun = True
        self._turns.begin(key for key in self._store.pipelines() if self._is_moving(key))

    def _is_moving(self, key: Key) -> bool:
        live = self._store.pipeline(key)
        if live is None or live.deleting:
            return False
        revision = latest(self.revisions(Owner(key, live.uid)))
        if revision is None or not revision.moved:
            return False
        status = live.packed.unpack().get("status") or {}
        if revision.candidate is not None or not is_at_rest(status):
            return True
        return (status.get("update") or {}).get("current") != revision.digest

    async def _adopted(self, pipeline: Pipeline, owner: Owner, resource: Object, *, settled: bool) -> Revision | None:
        """What an operator of the time before revisions has made; None: nothing, or what this one would make too.

        Only of a resource that was not edited since: of two changes at once it can't be told which is whose.
        """
        track = next((track for track in TRACKS if self._are_there(pipeline, owner, track)), None)
        if not settled or track is None:
            return None
        try:
            pods = {role: await self._applied_template(pipeline, role, track) for role in _roles(pipeline)}
            generation = pods[Role.DENOISER]["metadata"]["labels"][names.GENERATION_LABEL]
            name = names.config_map(pipeline, generation)
            variables = (await self._cluster.get(CONFIG_MAP, pipeline.namespace, name))["data"]
        except KeyError:
            # Somebody else has made them, or has taken them over.
            return None
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        found = Templates(generation, variables, pods)
        made = templates(pipeline, self._images)
        if (
            not track
            and found.variables == made.variables
            and all(_same(found.pods[r], made.pods[r]) for r in made.pods)
        ):
            return None
        return Revision(1, resource["spec"], self._images, found, track=track)

    def _are_there(self, pipeline: Pipeline, owner: Owner, track: str) -> bool:
        children = [
            self._store.child(owner.key, STATEFUL_SET, _stateful_set(pipeline, role, track))
            for role in _roles(pipeline)
        ]
        return all(child is not None and child.owner == owner.uid for child in children)

    async def _applied_template(self, pipeline: Pipeline, role: Role, track: str) -> Object:
        live = await self._cluster.get(STATEFUL_SET, pipeline.namespace, _stateful_set(pipeline, role, track))
        found: Object = owned(live, FIELD_MANAGER)["spec"]["template"]
        if track and role is not Role.ROUTER:
            # It is the StatefulSet's, whatever its pods are made of.
            del found["metadata"]["labels"][names.TRACK_LABEL]
        return found


def _roles(pipeline: Pipeline) -> list[Role]:
    return [Role.ROUTER, *(spec.role for spec, _ in pipeline.workers())]


def _stateful_set(pipeline: Pipeline, role: Role, track: str) -> str:
    return names.child(pipeline, role, "" if role is Role.ROUTER else track)


def sooner(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Though the API server writes quantities in its own way."""
    return not any(True for _ in (*differences(one, other), *differences(other, one)))


def _unasked(pipeline: Pipeline, resource: Object, idle: bool | None, now: datetime) -> tuple[str, float | None]:
    """Why it does not move by itself, and when to look again."""
    if pipeline.update.policy == "Manual":
        return reasons.HELD, None
    if opens := opens_in(pipeline.update.windows, now):
        return reasons.OUTSIDE_WINDOW, min(opens, _LOOK_AGAIN_SECONDS)
    if not is_at_rest(resource.get("status") or {}):
        return reasons.NOT_READY, None
    if pipeline.update.policy == "WhenIdle" and not idle and not pipeline.suspended:
        return reasons.BUSY, None
    return "", None
