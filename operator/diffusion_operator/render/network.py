"""Network policies of an isolated pipeline.

The data plane is not authenticated: whoever reaches a worker's transfer ports can read its pool, and with Mooncake
write it; whoever reaches the router's gRPC port can register as a worker. A policy names pods and addresses, never a
host: what is known by its host name alone (a hub, the router's stores) is allowed by its port, or altogether.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diffusion_operator.api import Isolation, Pipeline, Role
from diffusion_operator.render import names
from diffusion_operator.render.ports import transfer_ports, worker_ports

Object = dict[str, Any]

_DNS_PORTS: Final = (53, 5353)
"""The second is where OpenShift's DNS pods listen, behind the Service's 53."""
_HTTPS_PORT: Final = 443
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Of every namespace, put there by the API server."""

_STORES: Final = {
    "DIFFUSION_ROUTER_STORE_URL": "--store-url",
    "DIFFUSION_ROUTER_ARTIFACTS_URL": "--artifacts-url",
}
"""Where the router is told of stores elsewhere: variables, and flags of the same meaning."""


def network_policies(
    pipeline: Pipeline, isolation: Isolation, router: Mapping[str, Any], operator_namespace: str
) -> list[Object]:
    """`router` is the template of the router's pods. `operator_namespace` is where the operator's pods are; empty: the
    operator is no pod, and none is let in."""
    return [_routers(pipeline, isolation, router, operator_namespace), _workers(pipeline, isolation)]


def _workers(pipeline: Pipeline, isolation: Isolation) -> Object:
    transport, workers = pipeline.transport, {"podSelector": names.workers(pipeline)}
    ingress = _from(isolation.metrics_from, *worker_ports(pipeline).values())
    router = {"podSelector": {"matchLabels": names.selector(pipeline, Role.ROUTER)}}
    egress = [_dns(), {"to": [router], "ports": [_port(pipeline.router.grpc_port)]}]
    if transport.backend != "shm":
        first, last = transfer_ports(pipeline)
        transfer = {**_port(first), "endPort": last}
        ingress.append({"from": [workers], "ports": [transfer]})
        egress.append({"to": [workers], "ports": [transfer]})
    if pipeline.model.downloaded:
        egress.append({"ports": [_port(_HTTPS_PORT)]})
    return _policy(pipeline, isolation, f"{pipeline.name}-workers", names.workers(pipeline), ingress, egress)


def _routers(pipeline: Pipeline, isolation: Isolation, router: Mapping[str, Any], operator_namespace: str) -> Object:
    http, grpc = pipeline.router.http_port, pipeline.router.grpc_port
    asking: list[Mapping[str, Any]] = [{"podSelector": {"matchLabels": {names.PIPELINE_LABEL: pipeline.name}}}]
    if operator_namespace:
        asking.append(
            {
                "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: operator_namespace}},
                "podSelector": {"matchLabels": {names.NAME_LABEL: names.OPERATOR}},
            }
        )
    if isolation.http_from is None:
        ingress: list[Object] = [{"ports": [_port(http)]}]
    else:
        ingress = _from((*isolation.http_from, *isolation.metrics_from), http)
    ingress += _from((*asking, *isolation.grpc_from), grpc)
    egress: list[Object] = [{}] if _stores_are_elsewhere(router) else [_dns()]
    pods = {"matchLabels": names.selector(pipeline, Role.ROUTER)}
    return _policy(pipeline, isolation, f"{pipeline.name}-router", pods, ingress, egress, Role.ROUTER)


def _stores_are_elsewhere(template: Mapping[str, Any]) -> bool:
    """Whether a store may be outside the pod. What only the pod will know (a Secret's value) may say so."""
    main = next(item for item in template["spec"]["containers"] if item["name"] == names.MAIN)
    words = [*(main.get("command") or ()), *(main.get("args") or ())]
    told = [item.get("value", "$") for item in main.get("env") or () if item["name"] in _STORES]
    for flag in _STORES.values():
        told += [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
        told += [after for word, after in itertools.pairwise(words) if word == flag]
    return bool(main.get("envFrom")) or any(not _is_in_the_pod(where) for where in told)


def _is_in_the_pod(url: str) -> bool:
    return not url or url.startswith(("/", "file:", "sqlite:", "sqlite+"))


def _policy(
    pipeline: Pipeline,
    isolation: Isolation,
    name: str,
    pods: Object,
    ingress: Sequence[Object],
    egress: Sequence[Object],
    role: Role | None = None,
) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": names.metadata(pipeline, name, role),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(ingress),
            "egress": [*egress, *map(dict, isolation.egress)],
        },
    }


def _from(peers: Sequence[Mapping[str, Any]], *ports: int) -> list[Object]:
    """A rule; none without peers, for a rule that names no peer allows all of them."""
    return [{"from": list(map(dict, peers)), "ports": list(map(_port, ports))}] if peers else []


def _dns() -> Object:
    """To anywhere: clusters have it in pods of several names, at addresses of nodes, or at link-local ones."""
    return {"ports": [{"protocol": kind, "port": port} for port in _DNS_PORTS for kind in ("UDP", "TCP")]}


def _port(number: int) -> Object:
    return {"protocol": "TCP", "port": number}
