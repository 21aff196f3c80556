"""LoRA adapters, as workers are told of them: what they load when they start, and the folder of others.

Decoders compute with none, so only encoders and denoisers have these variables.
"""

from __future__ import annotations

from typing import Final

from diffusion_operator.api import Model
from diffusion_operator.render import listed

ADAPTERS: Final = "DIFFUSION_WORKER_ADAPTERS"
FOLDER: Final = "DIFFUSION_WORKER_ADAPTER_FOLDER"
MAX_LOADED: Final = "DIFFUSION_WORKER_MAX_LOADED_ADAPTERS"


def meaning(model: Model) -> dict[str, str]:
    """Variables that decide what an adapter's name means. None where there are no adapters."""
    found = listed.variable(ADAPTERS, model.adapters)
    if model.adapter_folder is not None:
        found[FOLDER] = model.adapter_folder.path
    return found


def variables(model: Model) -> dict[str, str]:
    """All of them."""
    folder = model.adapter_folder
    return {**meaning(model), **({MAX_LOADED: str(folder.max_loaded)} if folder is not None else {})}
