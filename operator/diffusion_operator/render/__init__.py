"""A pipeline -> the Kubernetes objects that run it. Pure: the same pipeline always gives the same objects.

The operator applies what this returns; `dpipe up` runs the same pods' `main` containers as processes.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names
from diffusion_operator.render.generation import generation
from diffusion_operator.render.podtemplate import router_template, worker_template
from diffusion_operator.render.service import api_service, headless_service
from diffusion_operator.render.statefulset import stateful_set

__all__ = ["Images", "render"]


@dataclass(frozen=True)
class Images:
    """Container images. The operator is configured with them; local processes have no use for one."""

    worker: str = f"diffusion-operator/worker:{version('diffusion-operator')}"
    router: str = f"diffusion-operator/router:{version('diffusion-operator')}"


def render(pipeline: Pipeline, images: Images = Images()) -> list[dict[str, Any]]:
    """All children: router first, so that whoever starts them in order has it before the workers that look for it."""
    router_ports = {names.HTTP: pipeline.router.http_port, names.GRPC: pipeline.router.grpc_port}
    worker_ports = {names.HEALTH: names.WORKER_HEALTH_PORT, names.GRPC_HEALTH: names.WORKER_GRPC_HEALTH_PORT}
    children = [
        headless_service(pipeline, Role.ROUTER, router_ports),
        api_service(pipeline, router_ports),
        stateful_set(pipeline, pipeline.roles[Role.ROUTER], router_template(pipeline, images.router)),
    ]
    revision = generation(pipeline, images.worker)
    for spec, roles in pipeline.workers():
        template = worker_template(pipeline, spec, roles, revision, images.worker)
        children.append(headless_service(pipeline, spec.role, worker_ports))
        children.append(stateful_set(pipeline, spec, template))
    return children
