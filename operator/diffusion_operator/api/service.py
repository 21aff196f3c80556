"""What a resource says of the Service that clients use."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api.errors import FieldError, InvalidResourceError, Path

HTTP: Final = "http"
GRPC: Final = "grpc"


@dataclass(frozen=True, kw_only=True)
class ApiService:
    type: str
    """ClusterIP, NodePort or LoadBalancer."""
    annotations: Mapping[str, str]
    ports: tuple[str, ...]
    """HTTP, and GRPC if it is published."""
    source_ranges: tuple[str, ...]
    """In CIDR notation. Empty: all."""
    load_balancer_class: str
    """Empty: the cluster's default."""
    external_traffic_policy: str
    """Cluster or Local. Empty: Kubernetes' default."""


def api_service(spec: Mapping[str, Any]) -> ApiService:
    """Of the section `router.service`. Raises InvalidResourceError for a range that is none."""
    # Who reaches the gRPC port can register as a worker: it leaves the cluster only where it is named.
    default = (HTTP, GRPC) if spec["type"] == "ClusterIP" else (HTTP,)
    given = spec.get("ports", default)
    path = ("spec", "router", "service", "loadBalancerSourceRanges")
    return ApiService(
        type=spec["type"],
        annotations=spec.get("annotations", {}),
        ports=tuple(port for port in (HTTP, GRPC) if port in given),
        source_ranges=_ranges(spec.get("loadBalancerSourceRanges", ()), path),
        load_balancer_class=spec.get("loadBalancerClass", ""),
        external_traffic_policy=spec.get("externalTrafficPolicy", ""),
    )


def _ranges(given: Sequence[str], path: Path) -> tuple[str, ...]:
    """The definition's pattern says what IPv4 looks like, and of IPv6 only which characters it has."""
    faults = []
    for index, text in enumerate(given):
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            faults.append(FieldError((*path, index), f"{error}: write it as 203.0.113.0/24 or 2001:db8::/32"))
    if faults:
        raise InvalidResourceError(faults)
    return tuple(given)
