"""ControlNets for a checkpoint, with random weights: "edges" and "depth", and for Flux "union", of two kinds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed import cache
from testbed.zoo.cache import ensure, folder
from testbed.zoo.family import Checkpoint

NAMES = ("edges", "depth")
UNION = "union"
OWN_SCALE = 0.7
"""Of "depth", where a request gives none."""
_LOCK_SECONDS = 240
_CLASSES = {
    "FluxPipeline": "FluxControlNet{}Pipeline",
    "QwenImagePipeline": "QwenImageControlNet{}Pipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3ControlNet{}Pipeline",
    "StableDiffusionPipeline": "StableDiffusionControlNet{}Pipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLControlNet{}Pipeline",
}
_SEVERAL_OF_ONE = {"QwenImagePipeline": "QwenImageMultiControlNetModel"}


class Led(NamedTuple):
    """What a request says of one of its ControlNets."""

    name: str
    scale: float | None = None
    start: float = 0.0
    end: float = 1.0
    mode: int | None = None


def control_net_files(checkpoint: Checkpoint) -> Any:
    """All of them, as a model is given them."""
    from diffusion_worker.model import ControlNetFiles

    names = (*NAMES, UNION) if checkpoint.pipeline == "FluxPipeline" else NAMES
    scales = {"depth": OWN_SCALE}
    return [ControlNetFiles(name, ensure_control_net(checkpoint, name), scales.get(name, 1.0)) for name in names]


def ensure_control_net(checkpoint: Checkpoint, name: str) -> Path:
    """The folder of a ControlNet, made if it is not there yet."""
    place = folder() / f"{checkpoint.name}-control-net-{name}"
    return cache.made_once(place, lambda draft: _make(checkpoint, name, draft), seconds=_LOCK_SECONDS)


def lead(pipeline: Any, checkpoint: Checkpoint, controls: Sequence[Led], arguments: dict[str, Any]) -> Any:
    """Diffusers' own pipeline that is led by these, of the same components, and what to call it with.

    `arguments`: of the pipeline without them, and under "controls" their pictures.
    """
    import diffusers

    networks = [_load(checkpoint, control.name, pipeline) for control in controls]
    several: Any = networks
    if checkpoint.pipeline in _SEVERAL_OF_ONE:
        several = getattr(diffusers, _SEVERAL_OF_ONE[checkpoint.pipeline])(networks[:1])
    use = "Inpaint" if "mask_image" in arguments else "Img2Img" if "image" in arguments else ""
    led = getattr(diffusers, _CLASSES[checkpoint.pipeline].format(use))
    taken = inspect.signature(led.__init__).parameters
    components = {name: one for name, one in pipeline.components.items() if name in taken}
    pipeline = led(**components, controlnet=networks[0] if len(networks) == 1 else several)
    pipeline.set_progress_bar_config(disable=True)
    # Torch chooses other kernels for weights that could be trained.
    pipeline.vae.requires_grad_(False)
    alone = not use and checkpoint.pipeline in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    columns = {
        "image" if alone else "control_image": arguments.pop("controls"),
        "controlnet_conditioning_scale": [
            {"depth": OWN_SCALE}.get(one.name, 1.0) if one.scale is None else one.scale for one in controls
        ],
        "control_guidance_start": [one.start for one in controls],
        "control_guidance_end": [one.end for one in controls],
    }
    if checkpoint.pipeline == "FluxPipeline":
        columns["control_mode"] = [one.mode for one in controls]
    return pipeline, arguments | {name: one[0] if len(one) == 1 else one for name, one in columns.items()}


def _load(checkpoint: Checkpoint, name: str, pipeline: Any) -> Any:
    import diffusers

    return getattr(diffusers, _recipe(checkpoint)[1]).from_pretrained(
        ensure_control_net(checkpoint, name), dtype=pipeline.dtype
    )


def _recipe(checkpoint: Checkpoint) -> tuple[Any, str]:
    from testbed.zoo.classes import controls

    return {
        "FluxPipeline": (controls.flux, "FluxControlNetModel"),
        "QwenImagePipeline": (controls.qwen, "QwenImageControlNetModel"),
        "StableDiffusion3Pipeline": (controls.sd3, "SD3ControlNetModel"),
        "StableDiffusionPipeline": (controls.unet, "ControlNetModel"),
        "StableDiffusionXLPipeline": (controls.unet, "ControlNetModel"),
    }[checkpoint.pipeline]


def _make(checkpoint: Checkpoint, name: str, path: Path) -> None:
    import diffusers
    import torch

    from testbed.zoo.classes.controls import shared

    pipeline = getattr(diffusers, checkpoint.pipeline).from_pretrained(ensure(checkpoint))
    network = _recipe(checkpoint)[0](pipeline.components)["controlnet"]
    if name == UNION:
        with torch.random.fork_rng():
            torch.manual_seed(len(name))
            network = type(network)(**{**shared(network, type(network)), "num_mode": 2})
            for zero in (weight for weight in network.parameters() if not weight.any()):
                torch.nn.init.normal_(zero, std=0.2)
    if name == "depth":
        for weight in network.parameters():
            weight.data = weight.data.roll(1, 0)
    network.save_pretrained(path, safe_serialization=True)
