"""IP-Adapters, as workers are told of them. All roles are, though decoders need their names alone."""

from __future__ import annotations

from typing import Final

from diffusion_operator.api import Model
from diffusion_operator.render import listed

IP_ADAPTERS: Final = "DIFFUSION_WORKER_IP_ADAPTERS"


def variables(model: Model) -> dict[str, str]:
    """None where there are no IP-Adapters."""
    return listed.variable(IP_ADAPTERS, model.ip_adapters)
