"""ControlNets, as workers are told of them. All roles are: who does not denoise needs their configs."""

from __future__ import annotations

from typing import Final

from diffusion_operator.api import Model
from diffusion_operator.render import listed

CONTROL_NETS: Final = "DIFFUSION_WORKER_CONTROL_NETS"


def variables(model: Model) -> dict[str, str]:
    """None where there are no ControlNets."""
    return listed.variable(CONTROL_NETS, model.control_nets)
