"""What a resource says of the transport."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rdma:
    resource: str
    """What the device plugin calls the devices. Empty: none are asked for."""
    count: int
    devices: tuple[str, ...]
    """Names of HCAs that may be used. Empty: all that can be."""
    gid_index: int | None
    ipc_lock: str
    """Auto, Always or Never."""
    networks: tuple[str, ...]
    host_network: bool

    @property
    def given(self) -> bool:
        """Whether pods can be expected to see a device."""
        return bool(self.resource) or self.host_network


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
    rdma: Rdma | None
    pool_size: int
    """Bytes."""
    port_min: int
    port_max: int
    """Inclusive."""
