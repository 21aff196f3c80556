"""What a resource says of the transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from diffusion_operator.api.role import Object
from diffusionpipeline.words import MODEL_ROLES, Role


@dataclass(frozen=True, kw_only=True)
class Rdma:
    resources: tuple[str, ...]
    """What the device plugin calls the devices. Empty: none are asked for."""
    claim_template: str
    """By which each worker pod claims its devices instead. Empty: it claims none."""
    count: int
    """Of each of the resources."""
    devices: tuple[str, ...]
    """Names of HCAs that may be used. Empty: all that can be."""
    gid_index: int | None
    ipc_lock: str
    """Auto, Always or Never."""
    networks: tuple[str, ...]
    """By their names alone."""
    network_selections: tuple[Object, ...]
    """In Multus' longer form."""
    host_network: bool

    @property
    def given(self) -> bool:
        """Whether pods can be expected to see a device."""
        return bool(self.resources or self.claim_template) or self.host_network


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Where worker pods are to be together, since tensors go between them."""

    key: str
    """Label of nodes: those that have the same value are one place."""
    required: bool
    """A pod that can't be where the others are waits."""


@dataclass(frozen=True, kw_only=True)
class Transport:
    backend: str
    """mooncake, tcp or shm."""
    protocol: str
    """auto, rdma or tcp."""
    fallback: str
    """Allow or Deny."""
    edges: Mapping[Role, str]
    """The protocol between a role and the next, where it is another."""
    rdma: Rdma | None
    pool_size: int
    """Bytes."""
    huge_pages: str
    """Of which pools are made: 2Mi or 1Gi. Empty: ordinary ones."""
    port_min: int
    port_max: int
    """Inclusive."""

    def protocol_of(self, maker: Role) -> str:
        """Between this role and the next."""
        return self.edges.get(maker, self.protocol)

    def may_use_rdma(self, roles: Sequence[Role]) -> bool:
        """Whether a worker of these roles has to do with an edge that may. Without a word of edges every worker has."""
        if not self.edges:
            return self.protocol != "tcp"
        return any(
            self.protocol_of(maker) != "tcp"
            for maker, reader in pairwise(MODEL_ROLES)
            if (maker in roles) != (reader in roles)
        )
