"""A pipeline -> the Kubernetes objects that run it. Pure: the same pipeline always gives the same objects.

The operator applies what this returns; `dpipe up` runs the same pods' `main` containers as processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names, storage
from diffusion_operator.render.account import service_account
from diffusion_operator.render.disruption import disruption_budget
from diffusion_operator.render.generation import config_map
from diffusion_operator.render.images import PACKAGED, Images
from diffusion_operator.render.monitoring import pod_monitor
from diffusion_operator.render.network import network_policies
from diffusion_operator.render.ports import worker_ports
from diffusion_operator.render.scaler import scaler, seed
from diffusion_operator.render.service import api_service, headless_service
from diffusion_operator.render.statefulset import stateful_set
from diffusion_operator.render.templates import Made, Templates, templates

__all__ = ["Images", "Made", "Templates", "render", "seed", "templates"]


def render(
    pipeline: Pipeline,
    images: Images = PACKAGED,
    counts: Mapping[Role, int] | None = None,
    operator_namespace: str = "",
    pods: Made | None = None,
) -> list[dict[str, Any]]:
    """All children, in the order in which they are to be applied: what pods need before the pods, and the router first.

    `counts` are the pods that the scalers of external roles say; a role that is not there has those of the resource.
    `operator_namespace` is where the operator's pods are; empty: it is no pod. `pods` is what pods are made of, where
    an earlier rendering of them is to stay; None: what they would be made of now.
    """
    said = counts or {}
    made = pods or Made(templates(pipeline, images))
    router = made.templates.pods[Role.ROUTER]
    children = [] if pipeline.service_account else [service_account(pipeline)]
    children += [config_map(pipeline, each.generation, each.variables) for each, _ in made.sets]
    children += _services(pipeline)
    if pipeline.isolation:
        children += network_policies(pipeline, pipeline.isolation, router, operator_namespace)
    children.append(
        stateful_set(
            pipeline,
            pipeline.roles[Role.ROUTER],
            replicas=pipeline.count(Role.ROUTER, said),
            template=router,
            claims=storage.router_claims(pipeline),
        )
    )
    workers = pipeline.workers()
    children += [
        stateful_set(
            pipeline,
            spec,
            replicas=pipeline.count(spec.role, said),
            template=each.pods[spec.role],
            claims=storage.worker_claims(pipeline, spec),
            track=track,
        )
        for each, track in made.sets
        for spec, _ in workers
    ]
    # A budget for a single pod would keep its node from ever being drained.
    children += [
        disruption_budget(pipeline, spec)
        for spec, _ in workers
        if spec.disruption.enabled and pipeline.count(spec.role, said) > 1
    ]
    children += [scaler(pipeline, spec) for spec, _ in workers if spec.external]
    if pipeline.pod_monitor:
        children.append(pod_monitor(pipeline))
    return children


def _services(pipeline: Pipeline) -> list[dict[str, Any]]:
    router_ports = {names.HTTP: pipeline.router.http_port, names.GRPC: pipeline.router.grpc_port}
    return [
        headless_service(pipeline, Role.ROUTER, router_ports),
        api_service(pipeline, router_ports),
        *(headless_service(pipeline, spec.role, worker_ports(pipeline)) for spec, _ in pipeline.workers()),
    ]
