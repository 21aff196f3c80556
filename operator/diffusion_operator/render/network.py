"""Network policies of an isolated pipeline.

The data plane is not authenticated: whoever reaches a worker's transfer ports can read its pool, and whoever reaches
the router's gRPC port can register as a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names


def network_policies(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [_routers(pipeline), _workers(pipeline)]


def _workers(pipeline: Pipeline) -> dict[str, Any]:
    transport = pipeline.transport
    health = [_port(port) for port in (names.WORKER_HEALTH_PORT, names.WORKER_GRPC_HEALTH_PORT)]
    rules: list[dict[str, Any]] = [{"ports": health}]
    if transport.backend != "shm":
        transfer = {**_port(transport.port_min), "endPort": transport.port_max}
        rules.append({"from": [{"podSelector": names.workers(pipeline)}], "ports": [transfer]})
    return _policy(pipeline, f"{pipeline.name}-workers", names.workers(pipeline), rules)


def _routers(pipeline: Pipeline) -> dict[str, Any]:
    own = {"podSelector": {"matchLabels": {names.PIPELINE_LABEL: pipeline.name}}}
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": {names.NAME_LABEL: names.OPERATOR}}}
    rules = [
        {"ports": [_port(pipeline.router.http_port)]},
        {"from": [own, operator], "ports": [_port(pipeline.router.grpc_port)]},
    ]
    return _policy(
        pipeline, f"{pipeline.name}-router", {"matchLabels": names.selector(pipeline, Role.ROUTER)}, rules, Role.ROUTER
    )


def _policy(
    pipeline: Pipeline, name: str, pods: dict[str, Any], rules: Sequence[dict[str, Any]], role: Role | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": names.metadata(pipeline, name, role),
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": list(rules)},
    }


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}
