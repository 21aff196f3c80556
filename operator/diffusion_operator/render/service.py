"""Services: a headless one for each role, which gives its pods their names, and the one that clients use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names


def headless_service(pipeline: Pipeline, role: Role, ports: Mapping[str, int]) -> dict[str, Any]:
    service = _service(pipeline, role, names.child(pipeline, role), ports)
    # Workers look the router up while it starts.
    service["spec"] |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return service


def api_service(pipeline: Pipeline, ports: Mapping[str, int]) -> dict[str, Any]:
    """ports: those of the router, some of which are published."""
    asked = pipeline.router.service
    service = _service(pipeline, Role.ROUTER, names.api_service(pipeline), {name: ports[name] for name in asked.ports})
    service["spec"] |= {"type": asked.type}
    if asked.source_ranges:
        service["spec"]["loadBalancerSourceRanges"] = list(asked.source_ranges)
    if asked.load_balancer_class:
        service["spec"]["loadBalancerClass"] = asked.load_balancer_class
    if asked.external_traffic_policy:
        service["spec"]["externalTrafficPolicy"] = asked.external_traffic_policy
    if asked.annotations:
        service["metadata"]["annotations"] = {**pipeline.annotations, **asked.annotations}
    return service


def _service(pipeline: Pipeline, role: Role, name: str, ports: Mapping[str, int]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": names.metadata(pipeline, name, role),
        "spec": {
            "selector": names.selector(pipeline, role),
            "ports": [
                {"name": port_name, "port": port, "targetPort": port_name, "protocol": "TCP"}
                for port_name, port in ports.items()
            ],
        },
    }
