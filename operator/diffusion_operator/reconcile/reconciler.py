"""Makes one pipeline so: reads what is known, renders, applies, prunes, reports.

Level-triggered: nothing here asks what happened. Every step may be the last one before the process is killed, and the
next attempt, by this process or another, starts from what is there. What is as it should be costs no request at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from diffusion_operator.api import InvalidResourceError, Pipeline, Platform, Role, from_live
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import CONFIG_MAP, CONTROLLER_REVISION, SCALER, STATEFUL_SET, Object
from diffusion_operator.cluster.store import ChildId, Store, Stored
from diffusion_operator.reconcile.apply import Applied, Applier, NamespaceGone, Owner, PipelineGone, Unfinished
from diffusion_operator.reconcile.modelcaches import ModelCaches
from diffusion_operator.reconcile.nodes import RdmaResources
from diffusion_operator.reconcile.publish import Publisher
from diffusion_operator.reconcile.registry import CALL_SECONDS, Registries
from diffusion_operator.reconcile.scalers import Scalers
from diffusion_operator.reconcile.updates import Outcome, Updates, sooner
from diffusion_operator.render import names, render
from diffusion_operator.status import invalid, reasons, summarise, workloads
from diffusion_operator.status.observed import Fault, Observed, RoleObserved
from diffusion_operator.status.peers import all_probed
from diffusion_operator.status.report import PipelineReport, report
from diffusion_operator.update.revision import to_object


@dataclass
class _Memory:
    """What is kept of a pipeline between its reconciles. Losing it costs a comparison, nothing else."""

    in_sync: tuple[object, ...] = ()
    """What the pipeline and its children looked like when everything was as it should be."""
    complete: bool = False
    """All children were there once."""
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    waits: tuple[str, ...] = ()
    update: Outcome | None = None
    report: PipelineReport | None = None


class Reconciler:
    def __init__(
        self,
        *,
        store: Store,
        applier: Applier,
        scalers: Scalers,
        registries: Registries,
        caches: ModelCaches,
        nodes: RdmaResources,
        publisher: Publisher,
        updates: Updates,
        platform: Platform,
        router_address: str,
        namespace: str,
    ) -> None:
        self._store = store
        self._applier = applier
        self._scalers = scalers
        self._registries = registries
        self._caches = caches
        self._nodes = nodes
        self._publisher = publisher
        self._updates = updates
        self._platform = platform
        self._router_address = router_address
        self._namespace = namespace
        self._memories: dict[Key, _Memory] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again even if nothing happens; None: no need to.

        Raises Unfinished, ApiError or Unreachable: to be tried again after a pause.
        """
        live = self._store.pipeline(key)
        if live is None or live.deleting:
            # The API server's garbage collector takes the children.
            self._memories.pop(key, None)
            self._publisher.forget(key)
            self._registries.forget(key)
            self._updates.forget(key)
            return None
        resource = live.packed.unpack()
        before = resource.get("status") or {}
        owner = Owner(key, live.uid)
        memory = self._memories.setdefault(key, _Memory())
        try:
            pipeline = self._platform.beneath(from_live(resource))
        except InvalidResourceError as error:
            return await self._publisher.publish(owner, before, invalid(resource, str(error), datetime.now(UTC)))
        try:
            counts = await self._scalers.counts(pipeline, owner)
            await self._make_so(pipeline, owner, live, resource, counts.replicas, memory)
        except (NamespaceGone, PipelineGone):
            return None
        observed = self._observe(pipeline, owner, resource, counts.replicas, memory, counts.faults)
        observed = await self._nodes.explain(pipeline, observed)
        scaling_faults = await self._scalers.report(pipeline, owner, observed.roles, datetime.now(UTC))
        observed = dataclasses.replace(observed, scaling_faults=(*observed.scaling_faults, *scaling_faults))
        status = summarise(pipeline, observed, before, datetime.now(UTC))
        memory.report = report(pipeline, status)
        if self._follow_router(pipeline, observed, key, status, memory):
            # Its answer, or the lack of one, is a matter of moments: no need to say that it was not asked yet.
            return CALL_SECONDS
        again = await self._publisher.publish(owner, before, status)
        if again is None:
            # Only now: whoever counts those that are not ready reads what is written.
            self._updates.reached(key, status)
        if unfinished := (*memory.waits, *(fault.message for fault in (*memory.faults, *observed.scaling_faults))):
            raise Unfinished("; ".join(unfinished), again)
        return sooner(again, memory.update.again if memory.update is not None else None)

    def recheck(self, key: Key) -> None:
        """Compare everything anew at the next reconcile, also what seems to be in sync."""
        if key in self._memories:
            self._memories[key].in_sync = ()

    def reports(self) -> list[PipelineReport]:
        """For metrics: every pipeline as its status says."""
        # Called from another thread: one copy, which the interpreter makes in one go, and no iteration.
        return [memory.report for memory in list(self._memories.values()) if memory.report is not None]

    async def _make_so(
        self,
        pipeline: Pipeline,
        owner: Owner,
        live: Stored,
        resource: Object,
        counts: Mapping[Role, int],
        memory: _Memory,
    ) -> None:
        in_sync = bool(memory.in_sync) and memory.in_sync == self._looks(owner, live, counts)
        # Whether one may move is also a matter of time, and of other pipelines.
        if in_sync and memory.update is not None and memory.update.is_final:
            return
        before = memory.update
        memory.update = await self._updates.decide(
            pipeline,
            owner,
            resource,
            peers=self._registries.peers(owner.key),
            counts=counts,
            now=datetime.now(UTC),
        )
        revision, made = memory.update.decision.revision, memory.update.made
        if in_sync and before is not None and (before.decision.revision, before.made) == (revision, made):
            return
        rendered = render(pipeline, counts=counts, operator_namespace=self._namespace, pods=made)
        children = [to_object(pipeline, revision), *(child for child in rendered if child["kind"] != SCALER.kind)]
        if memory.complete and self._lacks(owner, children):
            # The garbage collector may have taken it, after a deletion that no watch told of.
            await self._applier.see_that_it_stays(owner)
        applied = await self._applier.apply(owner, children)
        await self._applier.prune(owner, children, self._needed_still(pipeline, owner, revision.number), applied)
        await self._scalers.prune(pipeline, owner, applied)
        memory.faults, memory.notes, memory.waits = tuple(applied.faults), tuple(applied.notes), tuple(applied.waits)
        # Otherwise everything is compared again at the next turn.
        in_sync = (
            not applied.faults
            and not applied.waits
            and not self._superfluous(owner, children)
            and self._are_as_applied(owner, children, applied)
        )
        memory.in_sync = self._looks(owner, live, counts) if in_sync else ()
        memory.complete = not self._lacks(owner, children)

    def _lacks(self, owner: Owner, children: list[Object]) -> bool:
        known = self._store.children(owner.key)
        return any((child["kind"], child["metadata"]["name"]) not in known for child in children)

    def _looks(self, owner: Owner, live: Stored, counts: Mapping[Role, int]) -> tuple[object, ...]:
        children = self._store.children(owner.key)
        marks = frozenset((*child.id, child.mark) for child in children.values())
        rolled_out = all(child.rolled_out for child in children.values())
        return (live.mark, tuple(sorted(counts.items())), marks, rolled_out)

    def _are_as_applied(self, owner: Owner, children: list[Object], applied: Applied) -> bool:
        """No child was changed, or deleted, by others after its own turn."""
        known = self._store.children(owner.key)
        ids = [(child["kind"], child["metadata"]["name"]) for child in children]
        return all(applied.marks.get(each) == (known[each].mark if each in known else None) for each in ids)

    def _superfluous(self, owner: Owner, children: list[Object]) -> bool:
        wanted = {(child["kind"], child["metadata"]["name"]) for child in children}
        return any(
            child.owner == owner.uid and child.id not in wanted and child.kind not in (CONFIG_MAP, CONTROLLER_REVISION)
            for child in self._store.children(owner.key).values()
        )

    def _needed_still(self, pipeline: Pipeline, owner: Owner, number: int) -> set[ChildId]:
        """The latest revisions before this one; and, while a rollout is under way, ConfigMaps: pods of the generation
        before still start containers by theirs."""
        children = self._store.children(owner.key).values()
        earlier = sorted(
            (item for item in self._updates.revisions(owner) if item["revision"] < number),
            key=lambda item: item["revision"],
        )
        kept = earlier[max(0, len(earlier) - pipeline.update.history) :]
        needed = {(CONTROLLER_REVISION.kind, item["metadata"]["name"]) for item in kept}
        if not all(child.rolled_out for child in children):
            needed |= {child.id for child in children if child.kind is CONFIG_MAP}
        return needed

    def _observe(
        self,
        pipeline: Pipeline,
        owner: Owner,
        resource: Mapping[str, Any],
        counts: Mapping[Role, int],
        memory: _Memory,
        scaling_faults: tuple[Fault, ...],
    ) -> Observed:
        track = memory.update.made.track if memory.update is not None else ""
        roles = {
            role: self._observe_role(pipeline, owner, role, counts, track)
            for role in Role
            if not pipeline.roles[role].colocated
        }
        return Observed(
            generation=resource["metadata"]["generation"],
            roles=roles,
            fault=memory.faults[0] if memory.faults else None,
            peers=self._registries.peers(owner.key),
            scaling_faults=scaling_faults,
            notes=memory.notes,
            cache_fault=self._caches.lacks(pipeline),
            update=memory.update.seen if memory.update is not None else None,
        )

    def _observe_role(
        self, pipeline: Pipeline, owner: Owner, role: Role, counts: Mapping[Role, int], track: str
    ) -> RoleObserved:
        name = names.child(pipeline, role, "" if role is Role.ROUTER else track)
        child = self._store.child(owner.key, STATEFUL_SET, name)
        desired = pipeline.count(role, counts)
        live = None if child is None or child.owner != owner.uid else child.packed.unpack()
        if live is not None and live.get("status", {}).get("replicas", 0) >= desired:
            self._store.clear_refusals(owner.key.namespace, name)
        problems = self._store.problems(owner.key, role)
        refusals = self._store.refusals(owner.key.namespace, name)
        return workloads.role(live, desired, problems, refusals, self._store.starting(owner.key, role))

    def _follow_router(
        self, pipeline: Pipeline, observed: Observed, key: Key, status: Mapping[str, Any], memory: _Memory
    ) -> bool:
        """Have the router asked who is registered; whether it was not, so far."""
        if not status["roles"][Role.ROUTER]["readyReplicas"]:
            self._registries.forget(key)
            return False
        address = self._router_address.format(
            pipeline=pipeline.name,
            service=names.grpc_service(pipeline),
            namespace=pipeline.namespace,
            port=pipeline.router.grpc_port,
        )
        states = {condition["type"]: condition["status"] for condition in status["conditions"]}
        due = any(condition["reason"] in (reasons.BUSY, reasons.SURGING) for condition in status["conditions"])
        known, shares = self._registries.peers(key), memory.update.shares if memory.update is not None else {}
        settled = states.get(reasons.READY) == "True" and states.get(reasons.PEERS_REGISTERED) == "True" and not due
        self._registries.follow(
            key,
            address,
            settled=settled and known is not None and known.shares == shares and all_probed(pipeline, observed),
            expected=status["router"]["expectedPeers"],
            shares=shares,
        )
        return known is None
