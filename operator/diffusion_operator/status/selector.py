"""The selector of a role's pods as text, which `/scale` wants."""

from __future__ import annotations

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import names


def selector_text(pipeline: Pipeline, role: Role) -> str:
    """A colocated role has the denoiser's pods."""
    own = Role.DENOISER if pipeline.roles[role].colocated else role
    return ",".join(f"{key}={value}" for key, value in sorted(names.selector(pipeline, own).items()))
