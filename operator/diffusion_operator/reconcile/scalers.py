"""The role scalers of a pipeline: one for each role whose replicas somebody else decides, such as an HPA or KEDA.

The number has a single writer. The operator writes it once, in the create that seeds it, and then only reads it: a
scaler that exists is never given a number, so no edit, restart or race of ours can overwrite what an autoscaler said.
A scaler that was deleted is made anew at the number of pods that run, so a mistake does not scale anything down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role
from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.kinds import SCALER, STATEFUL_SET
from diffusion_operator.cluster.store import Store, Stored, stored
from diffusion_operator.reconcile import labels
from diffusion_operator.reconcile.apply import Applied, Owner, refusal, remove
from diffusion_operator.render import names
from diffusion_operator.render.scaler import scaler as role_scaler
from diffusion_operator.render.scaler import seed
from diffusion_operator.status import reasons, scaler_status
from diffusion_operator.status.observed import Fault, RoleObserved

log = structlog.get_logger()


@dataclass(frozen=True)
class Counts:
    replicas: Mapping[Role, int]
    """Of the External roles."""
    faults: tuple[Fault, ...]


class Scalers:
    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store

    async def counts(self, pipeline: Pipeline, owner: Owner) -> Counts:
        """How many pods each External role is to have; makes the scalers that are missing.

        Raises NamespaceGone, and ApiError or Unreachable if the API server can't do it now.
        """
        replicas: dict[Role, int] = {}
        faults: list[Fault] = []
        for role in external_roles(pipeline):
            try:
                scaler = await self._scaler(pipeline, owner, role)
            except ApiError as error:
                if error.transient:
                    raise
                replicas[role] = self._running(pipeline, owner, role)
                faults.append(refusal(SCALER, names.child(pipeline, role), error))
                continue
            if scaler.owner == owner.uid and not scaler.deleting:
                replicas[role] = scaler.packed.unpack()["spec"]["replicas"]
                faults += await self._label(pipeline, scaler)
                continue
            replicas[role] = self._running(pipeline, owner, role)
            if not scaler.deleting:
                faults.append(_not_ours(scaler.name, role))
        return Counts(replicas, tuple(faults))

    async def prune(self, pipeline: Pipeline, owner: Owner, applied: Applied) -> None:
        """Delete the scalers of roles that are Static (again). Raises as `counts` does."""
        external = external_roles(pipeline)
        for role in MODEL_ROLES:
            scaler = self._store.scaler(pipeline.namespace, names.child(pipeline, role))
            if role not in external and scaler is not None and scaler.owner == owner.uid and not scaler.deleting:
                await remove(self._cluster, owner, scaler, applied)

    async def report(
        self, pipeline: Pipeline, owner: Owner, observed: Mapping[Role, RoleObserved], now: datetime
    ) -> Sequence[Fault]:
        """Write the status of each scaler where it differs; tell which could not be. Raises as `counts` does."""
        faults: list[Fault] = []
        for role in external_roles(pipeline):
            scaler = self._store.scaler(pipeline.namespace, names.child(pipeline, role))
            if scaler is None or scaler.owner != owner.uid or scaler.deleting:
                continue
            live = scaler.packed.unpack()
            status = scaler_status(pipeline, role, observed[role], live, now)
            if status == live.get("status"):
                continue
            try:
                answer = await self._cluster.apply_status(SCALER, pipeline.namespace, scaler.name, scaler.uid, status)
                self._store.wrote(SCALER, answer)
            except ApiError as error:
                if error.transient or error.status in {404, 409}:
                    raise
                faults.append(refusal(SCALER, scaler.name, error))
        return faults

    async def _scaler(self, pipeline: Pipeline, owner: Owner, role: Role) -> Stored:
        name = names.child(pipeline, role)
        known = self._store.scaler(pipeline.namespace, name)
        if known is None:
            scaler = owner.adopt(role_scaler(pipeline, pipeline.roles[role]))
            item = labels.marked(pipeline, seed(scaler, self._running(pipeline, owner, role)))
            try:
                live = await self._cluster.create(SCALER, item)
                log.info("scaler_seeded", pipeline=str(owner.key), role=role, replicas=item["spec"]["replicas"])
            except ApiError as error:
                if error.status != 409:
                    raise
                live = await self._cluster.get(SCALER, pipeline.namespace, name)
            self._store.wrote(SCALER, live)
            known = stored(SCALER, live)
        return known

    async def _label(self, pipeline: Pipeline, scaler: Stored) -> Sequence[Fault]:
        """Make its common labels and annotations so, and touch nothing else of it."""
        patch = labels.patch(pipeline, scaler.packed.unpack())
        if not patch:
            return ()
        # This very object: one made anew under its name has another.
        patch = {"metadata": {"uid": scaler.uid, **patch}}
        try:
            self._store.wrote(SCALER, await self._cluster.merge(SCALER, pipeline.namespace, scaler.name, patch))
        except ApiError as error:
            if error.transient or error.status in {404, 409}:
                raise
            return (refusal(SCALER, scaler.name, error),)
        return ()

    def _running(self, pipeline: Pipeline, owner: Owner, role: Role) -> int:
        """What a new scaler starts with: what runs, or what the resource says; never 0, which an HPA takes as «off»."""
        # A pipeline that is being resumed still has no pods, not even its router, which is there whatever is scaled.
        if not pipeline.suspended and self._replicas(pipeline, owner, Role.ROUTER) != 0:
            runs = self._replicas(pipeline, owner, role)
            if runs is not None:
                return max(1, runs)
        return max(1, pipeline.roles[role].replicas)

    def _replicas(self, pipeline: Pipeline, owner: Owner, role: Role) -> int | None:
        """Of a role's StatefulSet; None: there is none."""
        child = self._store.child(owner.key, STATEFUL_SET, names.child(pipeline, role))
        if child is None or child.owner != owner.uid:
            return None
        replicas: int = child.packed.unpack()["spec"].get("replicas", 1)
        return replicas


def external_roles(pipeline: Pipeline) -> Sequence[Role]:
    return [role for role in MODEL_ROLES if pipeline.roles[role].external and not pipeline.roles[role].colocated]


def _not_ours(name: str, role: Role) -> Fault:
    return Fault(
        reason=reasons.NAME_CONFLICT,
        message=f"{SCALER.kind} {name} exists and does not belong to this pipeline: {role} keeps its replicas until "
        f"that object is deleted or renamed",
    )
