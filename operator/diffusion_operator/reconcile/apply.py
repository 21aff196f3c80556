"""Makes a pipeline's children be as rendered, and no others.

A child is sent only if it is not known to be as it should (see `marking`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from diffusion_operator.api import API_VERSION, KIND
from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import PIPELINE, POD_MONITOR, STATEFUL_SET, Kind, Object, kind_of
from diffusion_operator.cluster.recorder import Recorder
from diffusion_operator.cluster.store import FOREIGN, ChildId, Store, Stored, mark_of, stored
from diffusion_operator.reconcile import claims, dropped, growth, marking
from diffusion_operator.render import names
from diffusion_operator.render.claims import resized, with_sizes
from diffusion_operator.render.difference import differences
from diffusion_operator.render.statefulset import IMMUTABLE
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Fault, FaultReason

_FIELDS_NAMED: Final = 4

log = structlog.get_logger()


class NamespaceGone(Exception):
    """The namespace is being deleted, and the pipeline with it."""


class PipelineGone(Exception):
    """The pipeline was deleted, or made anew, since it was read."""


class Unfinished(Exception):
    """Not everything could be applied, and nobody will tell when it can be: to be tried again after a pause.

    `again`: seconds after which to look again in any case, for a status that is not written yet.
    """

    def __init__(self, why: str, again: float | None = None) -> None:
        super().__init__(why)
        self.again = again


@dataclass(frozen=True)
class Owner:
    """The resource as its children name it."""

    key: Key
    uid: str
    kind: str = KIND

    def adopt(self, child: Mapping[str, Any]) -> Object:
        """The child as it is sent, with its owner. The owner does not wait for it to be deleted."""
        reference = {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.key.name,
            "uid": self.uid,
            # To a vertical autoscaler pods are those of the topmost controller that can be scaled. A pipeline can be,
            # as its denoiser, so that its other roles would be out of reach.
            "controller": child["kind"] != STATEFUL_SET.kind,
            "blockOwnerDeletion": False,
        }
        return {**child, "metadata": {**child["metadata"], "ownerReferences": [reference]}}


@dataclass
class Applied:
    """What an attempt came to."""

    faults: list[Fault]
    """What the API server, or somebody else's object, does not allow."""
    notes: list[str]
    """What was left out on purpose."""
    waits: list[str]
    """What must pass first, such as the end of an object that is being deleted."""
    marks: dict[ChildId, str]
    """Of the children that were found or made as they should be, as they looked then."""


class Applier:
    """`reverted` is told the kind of every child that was changed by hand and put back."""

    def __init__(self, cluster: Cluster, store: Store, recorder: Recorder, reverted: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._store = store
        self._recorder = recorder
        self._reverted = reverted

    async def apply(self, owner: Owner, children: Sequence[Object]) -> Applied:
        """Apply each child that is not as it should be; one that can't be does not keep the others from it.

        Raises NamespaceGone, PipelineGone, and ApiError or Unreachable if the API server can't do it now.
        """
        applied = Applied([], [], [], {})
        for child in children:
            await self._apply(owner, child, applied)
        return applied

    async def prune(
        self, owner: Owner, children: Sequence[Object], retained: Collection[ChildId], applied: Applied
    ) -> None:
        """Delete what this pipeline made and no longer wants. `retained`: what was wanted before and is to stay."""
        wanted = {(child["kind"], child["metadata"]["name"]) for child in children}
        for child in list(self._store.children(owner.key).values()):
            superfluous = child.owner == owner.uid and child.id not in wanted and not child.deleting
            if superfluous and child.id not in retained:
                await remove(self._cluster, owner, child, applied)

    async def see_that_it_stays(self, owner: Owner) -> None:
        """Ask the API server for the pipeline itself, where its children look as if it had been deleted.

        Watches of different kinds tell in no order. A child that is made, or taken back, for an owner that is gone
        would be collected, and its pods with it. Raises PipelineGone, ApiError, Unreachable.
        """
        try:
            live = await self._cluster.get(PIPELINE, owner.key.namespace, owner.key.name)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            if live["metadata"]["uid"] == owner.uid and "deletionTimestamp" not in live["metadata"]:
                return
            self._store.put(PIPELINE, live)
            raise PipelineGone
        known = self._store.pipeline(owner.key)
        if known is not None and known.uid == owner.uid:
            self._store.remove(PIPELINE, known.packed.unpack())
        raise PipelineGone

    async def _apply(self, owner: Owner, child: Object, applied: Applied) -> None:
        kind, name = kind_of(child), child["metadata"]["name"]
        known = self._store.child(owner.key, kind, name)
        adopted = owner.adopt(child)
        try:
            if known is None:
                await self._make(owner, kind, adopted, applied)
            else:
                await self._mend(owner, known, adopted, applied)
        except ApiError as error:
            if error.transient:
                raise
            self._judge(kind, name, error, applied)

    async def _make(self, owner: Owner, kind: Kind, adopted: Object, applied: Applied) -> None:
        marked = marking.marked(adopted)
        try:
            answer = await self._cluster.apply(kind, marking.only_new(marked))
        except ApiError as error:
            if error.status != 409:
                raise
            name = adopted["metadata"]["name"]
            live = await self._cluster.get(kind, owner.key.namespace, name)
            known = stored(kind, live)
            labels = live["metadata"].get("labels", {})
            if known.owner != owner.uid and labels.get(names.PIPELINE_LABEL) != owner.key.name:
                applied.faults.append(_name_conflict(kind, name, "it does not belong to this pipeline"))
                return
            # Ours: the watch has not told of it yet, or will not, as somebody took the labels that it selects by.
            await self._mend(owner, known, adopted, applied)
            return
        self._wrote(kind, marked, answer, applied)

    async def _mend(self, owner: Owner, known: Stored, adopted: Object, applied: Applied) -> None:
        kind, name = known.kind, known.name
        if known.owner == FOREIGN:
            applied.faults.append(_name_conflict(kind, name, "another controller owns it"))
            return
        if known.deleting:
            applied.waits.append(f"{kind} {name} is being deleted")
            return
        live = known.packed.unpack()
        if kind is STATEFUL_SET:
            adopted, kept = claims.as_made(adopted, live)
            if kept:
                applied.notes.append(claims.note(name, kept))
            sized = await self._with_claims_that_grow(owner, known, adopted, live, applied)
            if sized is None:
                return
            adopted = sized
        if kind is STATEFUL_SET and (fixed := list(_immutable_changes(adopted, live))):
            applied.faults.append(_immutable_fault(name, fixed))
            adopted = _with_live(adopted, live, fixed)
        marked = marking.marked(adopted)
        rendered_so_before = marking.rendered_so(marked, live)
        changed = list(differences(marked, live))
        if rendered_so_before and not changed:
            applied.marks[known.id] = known.mark
            return
        if not known.owner:
            # Orphaned with its pipeline (`kubectl delete --cascade=orphan`), or by hand.
            await self.see_that_it_stays(owner)
        answer = await self._cluster.apply(kind, marked)
        version_before = known.version
        self._wrote(kind, marked, answer, applied)
        if int(answer["metadata"]["resourceVersion"]) == version_before:
            return
        if rendered_so_before:
            self._tell_reverted(owner, kind, name, changed)
        elif kind is STATEFUL_SET:
            self._tell_scaled(owner, marked, live)

    async def _with_claims_that_grow(
        self, owner: Owner, known: Stored, adopted: Object, live: Object, applied: Applied
    ) -> Object | None:
        """The StatefulSet with claims of the sizes that it has. None: they grow, and it goes, to be made anew."""
        sizes = resized(live, adopted)
        as_it_is = with_sizes(adopted, {template: made for template, (made, _) in sizes.items()})
        if not sizes or any(True for _ in _immutable_changes(as_it_is, live)):
            return adopted
        try:
            await growth.grow(self._cluster, owner.key, live, sizes)
            await self._cluster.delete(known.kind, owner.key.namespace, known.name, known.uid, orphan=True)
        except growth.NotGrown as not_grown:
            if not_grown.fault is not None:
                applied.faults.append(not_grown.fault)
            else:
                applied.notes.append(str(not_grown))
                applied.waits.append(str(not_grown))
        except ApiError as error:
            if error.transient:
                raise
            applied.faults.append(refusal(known.kind, f"{known.name}, whose claims are to grow", error))
        else:
            applied.waits.append(f"{known.kind} {known.name} is made anew around its pods, as its claims grow")
            return None
        return as_it_is

    def _wrote(self, kind: Kind, sent: Object, answer: Object, applied: Applied) -> None:
        self._store.wrote(kind, answer)
        if (fault := dropped.fault(kind, sent, answer)) is not None:
            applied.faults.append(fault)
        applied.marks[kind.kind, answer["metadata"]["name"]] = mark_of(answer["metadata"])

    def _judge(self, kind: Kind, name: str, error: ApiError, applied: Applied) -> None:
        """A refusal that the same request would meet again."""
        if error.status == 404 and kind is POD_MONITOR:
            applied.notes.append(
                f"no PodMonitor {name}: this cluster has no API {POD_MONITOR.api_version}; install the Prometheus "
                "operator, or set spec.monitoring.podMonitor to false"
            )
        elif error.status == 409:
            # A write that lost a race: what is there now is read by the next attempt.
            applied.waits.append(f"{kind} {name}: {error.message}")
        else:
            applied.faults.append(refusal(kind, name, error))

    def _tell_reverted(self, owner: Owner, kind: Kind, name: str, changed: list[str]) -> None:
        shown = ", ".join(changed[:_FIELDS_NAMED]) + (", …" if len(changed) > _FIELDS_NAMED else "")
        self._reverted(kind.kind)
        log.info("reverted", pipeline=str(owner.key), kind=kind.kind, name=name, fields=changed)
        self._recorder.record(
            owner.key,
            owner.uid,
            "Warning",
            "Reverted",
            f"{kind} {name}: {shown} had been changed by hand and is as this DiffusionPipeline says again; "
            "edit the DiffusionPipeline instead",
        )

    def _tell_scaled(self, owner: Owner, wanted: Object, live: Object) -> None:
        before, after = live["spec"].get("replicas"), wanted["spec"]["replicas"]
        if before != after:
            role = wanted["metadata"]["labels"][names.ROLE_LABEL]
            self._recorder.record(owner.key, owner.uid, "Normal", "Scaled", f"{role}: {before} to {after} replicas")


async def remove(cluster: Cluster, owner: Owner, child: Stored, applied: Applied) -> None:
    """Delete what a pipeline made and no longer wants. Raises as Applier.apply does."""
    log.info("pruning", pipeline=str(owner.key), kind=child.kind.kind, name=child.name)
    try:
        await cluster.delete(child.kind, owner.key.namespace, child.name, child.uid)
    except ApiError as error:
        if error.transient:
            raise
        applied.faults.append(refusal(child.kind, child.name, error))


def refusal(kind: Kind, name: str, error: ApiError) -> Fault:
    """What an error that the same request would meet again is to a pipeline. Raises NamespaceGone if it is that."""
    if "because it is being terminated" in error.message or (
        error.status == 404 and error.message.startswith("namespaces ")
    ):
        raise NamespaceGone from error
    forbidden = error.status == 403 and "cannot" in error.message
    reason: FaultReason = "Forbidden" if forbidden else "ApplyFailed"
    remedy = "; give the operator's role this verb (the Helm chart does)" if forbidden else ""
    log.warning("refused", kind=kind.kind, name=name, status=error.status, error=error.message)
    return Fault(reason=reason, message=f"{kind} {name}: {error.message}{remedy}")


def _immutable_changes(wanted: Object, live: Object) -> Iterator[str]:
    for field in IMMUTABLE:
        ours, theirs = wanted["spec"].get(field), live["spec"].get(field)
        if bool(ours) != bool(theirs) or any(True for _ in differences(ours, theirs)):
            yield field


def _with_live(wanted: Object, live: Object, fields: Collection[str]) -> Object:
    """With these fields as they are, so that everything else (the replicas first of all) can still be applied."""
    spec = {name: value for name, value in wanted["spec"].items() if name not in fields}
    return {**wanted, "spec": spec | {name: live["spec"][name] for name in fields if name in live["spec"]}}


def _immutable_fault(name: str, fields: Sequence[str]) -> Fault:
    which = ", ".join(f"spec.{field}" for field in fields)
    return Fault(
        reason=reasons.IMMUTABLE_FIELD_CHANGED,
        message=f"StatefulSet {name}: {which} can't be changed and stays as it was; put the DiffusionPipeline's field "
        f"back, or `kubectl delete statefulset {name} --cascade=orphan --wait=false` to have it made anew around its "
        "pods",
    )


def _name_conflict(kind: Kind, name: str, why: str) -> Fault:
    return Fault(
        reason=reasons.NAME_CONFLICT,
        message=f"{kind} {name} exists and {why}: delete or rename it, or give the pipeline another name",
    )
