"""Autoencoders that work in tiles: pictures need less memory then, and have other bits where there is more than one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_worker.model.families import TILED
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.types import UnsupportedModel


def set_tiling(components: Mapping[str, Any], folder: ModelFolder, *, wanted: bool) -> None:
    """Turns tiles on where an autoencoder can do nothing else, and where they are `wanted` in all that can.

    Shells count: a role without an autoencoder refuses what a role with it would. Raises UnsupportedModel if tiles are
    wanted of a pipeline in which nothing can.
    """
    # Of instances: diffusers' mixin has the method for those that can't as well.
    able = [component for component in components.values() if hasattr(component, "use_tiling")]
    if wanted and not able:
        raise UnsupportedModel(
            f"{folder.path}: model.vae.tiling: no component of {folder.pipeline_class} can work in tiles: leave it out"
        )
    for component in able:
        if wanted or type(component).__name__ in TILED:
            component.enable_tiling()
