"""A valid resource as typed, immutable values: what `render` and `dpipe` read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from diffusion_operator.api.quantity import parse_quantity


class Role(StrEnum):
    ENCODER = "encoder"
    DENOISER = "denoiser"
    DECODER = "decoder"
    ROUTER = "router"


MODEL_ROLES: Final = (Role.ENCODER, Role.DENOISER, Role.DECODER)
BUNDLED_MODEL: Final = "digits"


@dataclass(frozen=True, kw_only=True)
class Model:
    source: str
    """Bundled, Path or Hub."""
    id: str
    revision: str
    """Empty: the repository's default branch."""
    dtype: str
    allow_pickle: bool


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    role: Role
    replicas: int
    """Pods; of a colocated role, those of the denoiser."""
    colocated: bool
    """Runs in the denoiser's process."""
    device: str
    threads: int | None
    """None: the libraries decide."""
    env: tuple[tuple[str, str], ...]
    args: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Transport:
    backend: str
    """mooncake, tcp or shm."""
    protocol: str
    """auto, rdma or tcp."""
    fallback: str
    """Allow or Deny."""
    pool_size: int
    """Bytes."""
    port_min: int
    port_max: int
    """Inclusive."""


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    http_port: int
    grpc_port: int
    lease_seconds: int
    request_timeout_seconds: int
    max_queued_requests: int


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    name: str
    namespace: str
    model: Model
    roles: Mapping[Role, RoleSpec]
    transport: Transport
    router: RouterSettings

    def workers(self) -> tuple[tuple[RoleSpec, tuple[Role, ...]], ...]:
        """The kinds of worker: each role that has pods of its own, with every role that its process runs."""
        colocated = tuple(role for role in MODEL_ROLES if self.roles[role].colocated)
        return tuple(
            (self.roles[role], _in_order((role, *colocated)) if role is Role.DENOISER else (role,))
            for role in MODEL_ROLES
            if not self.roles[role].colocated
        )


def _in_order(roles: tuple[Role, ...]) -> tuple[Role, ...]:
    return tuple(role for role in MODEL_ROLES if role in roles)


def from_defaulted(resource: Mapping[str, Any]) -> Pipeline:
    """Reads a resource that has its defaults and is valid."""
    metadata, spec = resource["metadata"], resource["spec"]
    model, transport, router = spec["model"], spec["transport"], spec["router"]
    denoisers = spec["roles"][Role.DENOISER]["replicas"]
    return Pipeline(
        name=metadata["name"],
        namespace=metadata.get("namespace", "default"),
        model=Model(
            source=model["source"],
            id=model.get("id", BUNDLED_MODEL),
            revision=model.get("revision", ""),
            dtype=model["dtype"],
            allow_pickle=model["allowPickle"],
        ),
        roles={role: _role(role, spec["roles"][role], denoisers) for role in Role},
        transport=Transport(
            backend=transport["backend"],
            protocol=transport["protocol"],
            fallback=transport["fallback"],
            pool_size=parse_quantity(transport["poolSize"]),
            port_min=transport["rpcPortRange"]["min"],
            port_max=transport["rpcPortRange"]["max"],
        ),
        router=RouterSettings(
            http_port=router["httpPort"],
            grpc_port=router["grpcPort"],
            lease_seconds=router["leaseSeconds"],
            request_timeout_seconds=router["requestTimeoutSeconds"],
            max_queued_requests=router["maxQueuedRequests"],
        ),
    )


def _role(role: Role, spec: Mapping[str, Any], denoisers: int) -> RoleSpec:
    colocated = "colocateWith" in spec
    return RoleSpec(
        role=role,
        replicas=denoisers if colocated else spec.get("replicas", 1),
        colocated=colocated,
        device=spec.get("device", "cpu"),
        threads=spec.get("threads"),
        env=tuple((item["name"], item["value"]) for item in spec.get("env", ())),
        args=tuple(spec.get("args", ())),
    )
