"""What becomes of a pipeline's pods: which are replaced, why, how many at once, and about how long it takes. Pure.

A role's StatefulSet replaces the pods that it had and keeps, from the highest number down to its partition, so many at
once as may be away. All roles begin at once. Pods that are new, or go, are no replaced ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role, RoleSpec
from diffusion_operator.api.quantity import exact
from diffusion_operator.render import Made, Templates, names, render
from diffusion_operator.render.claims import resized, with_sizes
from diffusion_operator.render.difference import differences
from diffusion_operator.render.statefulset import IMMUTABLE
from diffusion_operator.update.changes import changes

Object = Mapping[str, Any]

_STATEFUL_SET: Final = "StatefulSet"
# Its name is made of the generation: one comes and one goes with what the pods' lines tell.
_UNTOLD: Final = (_STATEFUL_SET, "ConfigMap")


@dataclass(frozen=True)
class Side:
    """A pipeline as it is, or would be."""

    pipeline: Pipeline
    spec: Mapping[str, Any]
    """With all defaults."""
    templates: Templates
    counts: Mapping[Role, int] = field(default_factory=dict)
    """Pods of the roles whose scalers say how many."""
    track: str = ""
    """Of its workers' StatefulSets."""
    beside: bool = False
    """Its workers come up beside those that run, and take over from them."""

    def pods(self, role: Role) -> int:
        return self.pipeline.count(role, self.counts) if role in self.templates.pods else 0


@dataclass(frozen=True)
class RolePlan:
    workload: str
    """The StatefulSet."""
    before: int
    after: int
    replaced: int
    """Of the pods that were there and stay."""
    held: int
    """Pods that would be of another template, and stay until somebody deletes them (OnDelete), or lets them go
    (partition)."""
    at_once: int
    beside: bool
    """Others come up beside them first."""
    why: tuple[str, ...]
    """Fields of the pod's template."""
    batches: int
    """One after the other."""
    start_seconds: float | None
    """From a pod's creation until it is ready, as those that run took. None: that is not known."""
    start_bound_seconds: int
    leave_bound_seconds: int
    """So long a pod may take to finish what it computes."""

    @property
    def seconds(self) -> float | None:
        return None if self.start_seconds is None else self.batches * self.start_seconds

    @property
    def bound_seconds(self) -> int:
        return self.batches * (self.start_bound_seconds + (self.leave_bound_seconds if self.replaced else 0))

    @property
    def moves(self) -> bool:
        return bool(self.replaced or self.held or self.before != self.after)


@dataclass(frozen=True)
class Plan:
    namespace: str
    name: str
    edits: tuple[str, ...]
    """Fields of the resource."""
    roles: tuple[RolePlan, ...]
    """Those of whose pods any is replaced, made or removed."""
    others: tuple[str, ...]
    """What changes without any pod: `Service digits-router-api: spec.type`."""
    refused: tuple[str, ...]
    """What the API server lets nobody change; the operator reports it and leaves it as it is."""
    warnings: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.roles or self.others or self.refused)


def plan(
    before: Side | None, after: Side | None, starts: Mapping[Role, float] | None = None, warnings: tuple[str, ...] = ()
) -> Plan:
    """None: there is no such pipeline. `starts`: seconds that pods of a role take to be ready. One of both is given."""
    known = after or before
    assert known is not None
    roles = tuple(role for role in _roles(before, after, starts or {}) if role.moves)
    return Plan(
        namespace=known.pipeline.namespace,
        name=known.pipeline.name,
        edits=_edits(before, after),
        roles=roles,
        others=(*_others(before, after), *_grown(before, after)),
        refused=tuple(_refused(before, after)),
        warnings=(*warnings, *_lost(before, after, roles), *_doubled(after, roles)),
    )


def _roles(before: Side | None, after: Side | None, starts: Mapping[Role, float]) -> Iterator[RolePlan]:
    why = changes(before.templates, after.templates) if before and after else {}
    for role in Role:
        was, will_be = (side.pods(role) if side else 0 for side in (before, after))
        side = after if after and role in after.templates.pods else before
        if side is None or role not in side.templates.pods:
            continue
        spec = side.pipeline.roles[role]
        kept = min(was, will_be) if role in why else 0
        beside = side.beside and role is not Role.ROUTER
        held = 0 if beside else kept if spec.update.type == "OnDelete" else min(kept, spec.update.partition)
        replaced = kept - held
        at_once = replaced if beside else min(_at_once(spec, will_be), replaced)
        seconds = starts.get(role)
        yield RolePlan(
            workload=names.child(side.pipeline, role),
            before=was,
            after=will_be,
            replaced=replaced,
            held=held,
            at_once=at_once,
            beside=beside,
            why=why.get(role, ()),
            batches=math.ceil(replaced / at_once) if at_once else int(will_be > was),
            start_seconds=None if seconds is None else seconds + spec.min_ready_seconds,
            start_bound_seconds=spec.startup_seconds + spec.min_ready_seconds,
            leave_bound_seconds=spec.drain_seconds,
        )


def _at_once(spec: RoleSpec, pods: int) -> int:
    """As the StatefulSet controller reckons: a share is rounded down, and one may always go."""
    limit = spec.update.max_unavailable
    if isinstance(limit, str):
        limit = pods * int(limit.rstrip("%")) // 100
    return max(1, limit)


def _edits(before: Side | None, after: Side | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    return tuple(dict.fromkeys([*_fields(after.spec, before.spec), *_fields(before.spec, after.spec)]))


def _fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    return (f"spec.{path}" for path in differences(one, other))


def _others(before: Side | None, after: Side | None) -> Iterator[str]:
    was, will_be = _children(before), _children(after)
    if not was or not will_be:
        return
    for kind, name in sorted(was.keys() | will_be.keys()):
        if kind in _UNTOLD:
            continue
        one, other = was.get((kind, name)), will_be.get((kind, name))
        if one is None or other is None:
            yield f"{kind} {name}: {'made' if one is None else 'removed'}"
        elif paths := tuple(dict.fromkeys([*differences(other, one), *differences(one, other)])):
            yield f"{kind} {name}: {', '.join(paths)}"


def _refused(before: Side | None, after: Side | None) -> Iterator[str]:
    was, will_be = _children(before), _children(after)
    for kind, name in was.keys() & will_be.keys():
        if kind == _STATEFUL_SET:
            one, other = was[kind, name], _with_claims_grown(was[kind, name], will_be[kind, name])[0]
            for field in IMMUTABLE:
                ours, theirs = one["spec"].get(field), other["spec"].get(field)
                if any(True for _ in (*differences(ours, theirs), *differences(theirs, ours))):
                    yield f"{kind} {name}: spec.{field}"


def _grown(before: Side | None, after: Side | None) -> Iterator[str]:
    was, will_be = _children(before), _children(after)
    for kind, name in sorted(was.keys() & will_be.keys()):
        if kind == _STATEFUL_SET:
            for one, other in _with_claims_grown(was[kind, name], will_be[kind, name])[1]:
                yield f"claims of {kind} {name} grow from {one} to {other}, if their storage class allows it"


def _with_claims_grown(one: Object, other: Object) -> tuple[Object, list[tuple[str, str]]]:
    """The other StatefulSet without what the operator can make of claims; and that: sizes before and after."""
    grown = {name: pair for name, pair in resized(one, other).items() if exact(pair[1]) > exact(pair[0])}
    if not grown:
        return other, []
    return with_sizes(other, {name: before for name, (before, _) in grown.items()}), list(grown.values())


def _children(side: Side | None) -> dict[tuple[str, str], dict[str, Any]]:
    if side is None:
        return {}
    children = render(side.pipeline, counts=side.counts, pods=Made(side.templates, side.track))
    return {(child["kind"], child["metadata"]["name"]): child for child in children}


def _doubled(after: Side | None, roles: tuple[RolePlan, ...]) -> Iterator[str]:
    surge = after.pipeline.update.surge if after is not None else None
    more = sum(role.replaced for role in roles if role.beside)
    if surge is not None and more:
        steps = math.ceil(100 / surge.step_percent)
        yield (
            f"meanwhile there are {more} pods more: they take over in {steps} steps of {surge.pause_seconds} s once "
            "all are ready (spec.update.surge)"
        )


def _lost(before: Side | None, after: Side | None, roles: tuple[RolePlan, ...]) -> Iterator[str]:
    if before is None:
        return
    router = names.child(before.pipeline, Role.ROUTER)
    goes = after is None or any(role.workload == router and (role.replaced or not role.after) for role in roles)
    if goes and before.pipeline.router.storage.type == "EmptyDir":
        yield (
            "the router's pod goes, and with it its jobs that are not finished and pictures that were not fetched: "
            "spec.router.storage.type is EmptyDir"
        )
