"""Pipelines, and what might be observed of them: by default all is well, and a test says what is not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import yaml

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role, load_pipeline
from diffusion_operator.status import summarise
from diffusion_operator.status.finding import conditions_by_type
from diffusion_operator.status.observed import (
    Fault,
    FaultReason,
    LoadingSeen,
    Observed,
    PeerSeen,
    PeersObserved,
    PodProblem,
    Refusal,
    RefusalReason,
    RoleObserved,
    UpdateObserved,
)

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
GENERATION = "aaaaaaaaaa"
OLD = "0000000000"

ALL_COLOCATED = "roles: {encoder: {colocateWith: denoiser}, decoder: {colocateWith: denoiser}}"
EXTERNAL = "roles: {denoiser: {scaling: {mode: External}}}"
SUSPENDED = "suspend: true"

RDMA = "transport: {protocol: rdma, rdma: {resourceName: rdma/hca}}"
RDMA_OR_NOTHING = "transport: {protocol: rdma, fallback: Deny, rdma: {resourceName: rdma/hca}}"

BY_EDGE = (
    "transport: {protocol: rdma, fallback: Deny, rdma: {resourceName: rdma/hca}, "
    "edges: {encoderToDenoiser: {protocol: tcp}}}"
)


def pipeline(spec: str = "") -> Pipeline:
    """The digits pipeline, with more of its spec as YAML."""
    return load_pipeline(
        {
            "apiVersion": "diffusion-operator.dev/v1alpha1",
            "kind": "DiffusionPipeline",
            "metadata": {"name": "digits", "namespace": "ai"},
            "spec": {"model": {"source": "Bundled"}, **(yaml.safe_load(spec) or {})},
        }
    )


def role(desired: int = 1, **differing: Any) -> RoleObserved:
    """A role that has all its pods, but for what is `differing`."""
    whole: dict[str, Any] = {
        "exists": True,
        "desired": desired,
        "replicas": desired,
        "ready": desired,
        "available": desired,
        "updated": desired,
        "current_revision": "r1",
        "update_revision": "r1",
        "observed": True,
        "generation": GENERATION,
    }
    return RoleObserved(**{**whole, **differing})


def unready(desired: int, ready: int, *problems: PodProblem, **differing: Any) -> RoleObserved:
    return role(desired, **{"ready": ready, "available": ready, "problems": problems, **differing})


def refused(reason: RefusalReason, message: str) -> RoleObserved:
    """One pod of two is there, and the other was refused."""
    refusals = (Refusal(reason=reason, message=message),)
    return role(2, replicas=1, ready=1, available=1, updated=1, refusals=refusals)


def problem(reason: str, message: str = "it says why", pod: str = "digits-denoiser-0") -> PodProblem:
    return PodProblem(pod=pod, reason=reason, message=message)


def peer(role: Role, number: int = 0, **differing: Any) -> PeerSeen:
    whole: dict[str, Any] = {
        "pod": f"digits-{role}-{number}",
        "roles": (role,),
        "generation": GENERATION,
        "mode": "mooncake-tcp",
        "state": "ready",
    }
    return PeerSeen(**{**whole, **differing})


def one_of_each(**differing: Any) -> list[PeerSeen]:
    return [peer(role, **differing) for role in MODEL_ROLES]


def answer(peers: Iterable[PeerSeen]) -> PeersObserved:
    return PeersObserved(reachable=True, peers=tuple(peers))


def loading(*pods: tuple[Any, ...]) -> PeersObserved:
    """Workers that download 7.8 GiB: name, role, percents that are there, and the generation if it is another."""
    size = 8_375_186_227
    seen = (
        LoadingSeen(pod=pod, roles=(role,), generation=(*more, GENERATION)[0], bytes=-(-size * done // 100), size=size)
        for pod, role, done, *more in pods
    )
    return PeersObserved(reachable=True, loading=tuple(seen))


UNREACHABLE = PeersObserved(reachable=False, error="UNAVAILABLE")


def observed(**differing: Any) -> Observed:
    """`differing`: roles by their names, and fields of Observed. Ready pods are registered unless `peers` is given."""
    roles = {
        each: differing.pop(each.value, role(generation="") if each is Role.ROUTER else role())
        for each in (*MODEL_ROLES, Role.ROUTER)
    }
    registered = answer(peer(each, number) for each in MODEL_ROLES for number in range(roles[each].ready))
    update = UpdateObserved(operator="9.1", current="c" * 10)
    return Observed(**{"generation": 7, "roles": roles, "peers": registered, "update": update, **differing})


def at_zero(**differing: Any) -> Observed:
    """Nobody is there any more."""
    nobody = {each.value: role(0) for each in Role}
    return observed(**{**nobody, "peers": None, **differing})


def conditions(
    pipeline: Pipeline, observed: Observed, previous: dict[str, Any] | None = None, now: datetime = NOW
) -> dict[str, Any]:
    return conditions_by_type(summarise(pipeline, observed, previous, now))


NO_HCA = problem("Unschedulable", "0/5 nodes are available: 5 Insufficient rdma/hca", pod="digits-denoiser-1")
NO_HCA_2 = problem("Unschedulable", NO_HCA.message, pod="digits-denoiser-2")


class Case(NamedTuple):
    seen: Observed
    type: str
    status: str
    reason: str
    message: str
    """A part of it."""
    spec: str = ""
    previous: dict[str, Any] | None = None
    now: datetime = NOW


def case(*values: Any, id: str, **more: Any) -> Any:
    return pytest.param(Case(*values, **more), id=id)


def before(seen: Observed, spec: str = "") -> dict[str, Any]:
    return summarise(pipeline(spec), seen, None, NOW)


def fault(reason: FaultReason) -> Fault:
    return Fault(reason=reason, message=f"StatefulSet digits-denoiser: {reason}")
