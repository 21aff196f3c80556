"""A valid resource as typed, immutable values: what `render`, `status` and `dpipe` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusion_operator.api.isolation import Isolation
from diffusion_operator.api.model import Model
from diffusion_operator.api.role import RoleSpec
from diffusion_operator.api.service import ApiService
from diffusion_operator.api.transport import Topology, Transport
from diffusion_operator.api.update import Update
from diffusionpipeline.words import MODEL_ROLES, Role


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a resource says of a container image. Empty: as the operator was installed with."""

    repository: str
    tag: str
    digest: str
    pull_policy: str


@dataclass(frozen=True, kw_only=True)
class CaBundle:
    """Certificates of authorities, in a ConfigMap of the pipeline's namespace."""

    config_map: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Storage:
    type: str
    """EmptyDir or PersistentVolumeClaim."""
    size: str
    """A quantity. Empty: no limit."""
    storage_class: str
    """Empty: the cluster's default."""


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    image: Image
    http_port: int
    grpc_port: int
    lease_seconds: int
    request_timeout_seconds: int
    max_queued_requests: int
    storage: Storage
    service: ApiService


@dataclass(frozen=True, kw_only=True)
class Scheduling:
    """In which order jobs are served. None: the router's own."""

    policy: str | None
    """Fifo or Deadline."""
    target_factor: float | None
    late_share: int | None


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    name: str
    namespace: str
    suspended: bool
    restart: str
    """Its change restarts all pods."""
    labels: Mapping[str, str]
    """Of all children, besides those by which they are known."""
    annotations: Mapping[str, str]
    """Of all children."""
    image: Image
    """Of the workers."""
    pull_secrets: tuple[str, ...]
    service_account: str
    """Empty: one of the pipeline's own."""
    security_profile: str
    """Restricted, OpenShift or Custom. Empty: Restricted."""
    model: Model
    roles: Mapping[Role, RoleSpec]
    transport: Transport
    topology: Topology | None
    shared_memory: str
    """A quantity. Empty: the container runtime's own /dev/shm."""
    router: RouterSettings
    scheduling: Scheduling
    pod_monitor: bool
    scrape_annotations: bool
    isolation: Isolation | None
    """By network policies. None: whoever reaches a pod reaches every port of it."""
    update: Update
    ca_bundle: CaBundle | None = None
    """The platform's. None: the authorities that images bring."""

    def workers(self) -> tuple[tuple[RoleSpec, tuple[Role, ...]], ...]:
        """The kinds of worker: each role that has pods of its own, with every role that its process runs."""
        colocated = tuple(role for role in MODEL_ROLES if self.roles[role].colocated)
        return tuple(
            (self.roles[role], _in_order((role, *colocated)) if role is Role.DENOISER else (role,))
            for role in MODEL_ROLES
            if not self.roles[role].colocated
        )

    def roles_of(self, spec: RoleSpec) -> tuple[Role, ...]:
        """All that the process in a role's own pods runs."""
        return next(roles for own, roles in self.workers() if own.role is spec.role)

    def count(self, role: Role, counts: Mapping[Role, int]) -> int:
        """Pods that a role should have; `counts` are what the scalers of external roles say."""
        if self.suspended:
            return 0
        spec = self.roles[Role.DENOISER if self.roles[role].colocated else role]
        return counts.get(spec.role, spec.replicas) if spec.external else spec.replicas


def _in_order(roles: tuple[Role, ...]) -> tuple[Role, ...]:
    return tuple(role for role in MODEL_ROLES if role in roles)
