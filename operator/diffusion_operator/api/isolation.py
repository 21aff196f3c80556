"""What a resource says of its network policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Peer = Mapping[str, Any]
"""As in a NetworkPolicy."""

PROMETHEUS: Final[Peer] = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
"""Pods of the Prometheus operator, and those of Prometheus' own chart."""


@dataclass(frozen=True, kw_only=True)
class Isolation:
    http_from: tuple[Peer, ...] | None
    """Of the router. None: everyone."""
    grpc_from: tuple[Peer, ...]
    """Of the router, besides the pipeline's pods and the operator's."""
    metrics_from: tuple[Peer, ...]
    egress: tuple[Mapping[str, Any], ...]
    """Rules for all pods, as in a NetworkPolicy."""


def isolation(spec: Mapping[str, Any]) -> Isolation | None:
    """Of the section `networkPolicy`; None: no policy."""
    if spec["mode"] != "Isolate":
        return None
    return Isolation(
        http_from=tuple(spec["httpFrom"]) if "httpFrom" in spec else None,
        grpc_from=tuple(spec.get("grpcFrom", ())),
        metrics_from=tuple(spec.get("metricsFrom", (PROMETHEUS,))),
        egress=tuple(_rule(rule) for rule in spec.get("egress", ())),
    )


def _rule(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**rule, "ports": [{"protocol": "TCP", **port} for port in rule["ports"]]} if "ports" in rule else rule
