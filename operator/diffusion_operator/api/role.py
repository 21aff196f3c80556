"""What a resource says of one role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusionpipeline.words import Role

Object = Mapping[str, Any]
"""A piece of a Kubernetes object. Never changed."""


def variable(spec: Object) -> Object:
    """One of an environment, as Kubernetes keeps it: without a value that is empty."""
    return {key: value for key, value in spec.items() if value != ""}


@dataclass(frozen=True, kw_only=True)
class UpdateStrategy:
    type: str
    """RollingUpdate or OnDelete."""
    partition: int
    max_unavailable: int | str


@dataclass(frozen=True, kw_only=True)
class DisruptionBudget:
    enabled: bool
    max_unavailable: int | str


@dataclass(frozen=True, kw_only=True)
class CacheRetention:
    when_scaled: str
    """Retain or Delete."""
    when_deleted: str


@dataclass(frozen=True, kw_only=True)
class Batching:
    """What denoisers compute together."""

    mode: str
    """Exact, Guidance or Requests."""
    max_tokens: int
    max_requests: int


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    """Of a colocated role, only `role`, `replicas` and `colocated` have a meaning."""

    role: Role
    replicas: int
    """Pods; of a colocated role, those of the denoiser. Of an external role, what its scaler starts with."""
    colocated: bool
    """Runs in the denoiser's process."""
    external: bool
    """Its scaler says how many pods it has."""
    gpus: int
    gpu_resource: str
    device: str
    """cpu or cuda."""
    threads: int | None
    """None: the libraries decide."""
    resources: Object
    resource_claims: tuple[Object, ...]
    """Of its pods, as Kubernetes has them in a pod."""
    env: tuple[Object, ...]
    args: tuple[str, ...]
    pod_template: Object
    update: UpdateStrategy
    min_ready_seconds: int
    drain_seconds: int
    startup_seconds: int
    disruption: DisruptionBudget
    scheduling: Object
    """Fields of the pod's spec, as Kubernetes has them: priorityClassName, nodeSelector, tolerations …"""
    affinity: Object
    spread: tuple[Object, ...]
    """topologySpreadConstraints, without the selector."""
    cache_retention: CacheRetention
    batching: Batching
    """Of the denoiser."""
    cache_share: float | None = None
    """Of the encoder. None: as its workers have it."""
    checkpoint_seconds: int | None = None
    """Of the denoiser: work that a pod which dies may take with it. None: all."""
    pod_security: Object = field(default_factory=dict)
    """The platform's security context of pods: fields that win over those of the profile."""
    security: Object = field(default_factory=dict)
    """The platform's, of the container main."""
