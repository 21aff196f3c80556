"""What a pipeline's pods are made of: their templates by role, and the generation's variables that all workers share.

Everything that replaces pods is in here, and nothing else is. So this is what a revision keeps (see `update`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import generation as generations
from diffusion_operator.render.images import Images
from diffusion_operator.render.podtemplate import router_template, worker_template


@dataclass(frozen=True)
class Templates:
    generation: str
    variables: Mapping[str, str]
    """Of the generation's ConfigMap."""
    pods: Mapping[Role, Mapping[str, Any]]
    """Of the router, and of each role that has pods of its own."""


def templates(pipeline: Pipeline, images: Images, generation: str = "") -> Templates:
    """generation: what the workers' shall be called; empty: as what it is made of says."""
    generation = generation or generations.generation(pipeline, images.worker)
    pods = {Role.ROUTER: router_template(pipeline, images.router)}
    for spec, roles in pipeline.workers():
        pods[spec.role] = worker_template(pipeline, spec, roles, generation, images.worker)
    return Templates(generation, generations.data(pipeline, generation), pods)
