"""ControlNets, as workers are told of them. All roles are: who does not denoise needs their configs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from diffusion_operator.api import Model

CONTROL_NETS: Final = "DIFFUSION_WORKER_CONTROL_NETS"


def variables(model: Model) -> dict[str, str]:
    """None where there are no ControlNets."""
    if not model.control_nets:
        return {}
    found = [asdict(one) for one in model.control_nets]
    return {CONTROL_NETS: json.dumps(found, ensure_ascii=False, separators=(",", ":"))}
