"""A small copy of a model with random weights: the same classes and widths, few layers.

The cut depends on a model's configs and not on its weights, so a check of the copy tells whether the real model can be
cut, on a machine that could not hold it. Widths stay, because they tie components to each other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from diffusion_worker.model.folder import DEFAULTS_FILE, INDEX_FILES, ModelFolder, open_folder
from diffusion_worker.model.quantised import CONFIG as QUANTISATION

DEPTH_KEYS: Final = ("num_layers", "num_single_layers", "num_refiner_layers", "n_refiner_layers", "n_layers", "depth")
"""What the networks of diffusers call their number of layers."""
LAYERS: Final = 2
"""Layers to keep of a network of diffusers."""

ENCODER_DEPTH_KEYS: Final = ("num_hidden_layers", "num_layers", "num_decoder_layers", "depth")
ENCODER_WIDTH_KEYS: Final = ("intermediate_size", "d_ff", "moe_intermediate_size")
"""Widths inside of a layer of transformers, which no other component sees."""
ENCODER_LAYERS: Final = 4
"""Layers to keep of a network of transformers: pipelines read the last but one, or but two."""
ENCODER_WIDTH: Final = 128

KEEP_ENCODER_DEPTH: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "Flux2Pipeline": frozenset({"text_encoder"}),
        "Flux2KleinPipeline": frozenset({"text_encoder"}),
        "LTX2Pipeline": frozenset({"text_encoder"}),
        "LTX2ImageToVideoPipeline": frozenset({"text_encoder"}),
    }
)
"""Encoders of which the pipeline reads layers by number, or all of them, by the pipeline's class."""


def shrink(source: Path, target: Path, *, dtype: torch.dtype) -> None:
    """Writes a small random copy of the model in `source` to the new folder `target`, in `dtype`."""
    folder = open_folder(source, allow_pickle=True)
    target.mkdir(parents=True)
    for name in (*INDEX_FILES, DEFAULTS_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    torch.manual_seed(0)
    keep_depth = KEEP_ENCODER_DEPTH.get(folder.pipeline_class, frozenset())
    for name in folder.components:
        if folder.is_module(name):
            model = _small(folder, name, dtype=dtype, keep_depth=name in keep_depth)
            model.save_pretrained(target / name, safe_serialization=True)
        else:
            shutil.copytree(folder.component_path(name), target / name)


def _small(folder: ModelFolder, name: str, *, dtype: torch.dtype, keep_depth: bool) -> Any:
    component_class = folder.component_class(name)
    path = folder.component_path(name)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if hasattr(component_class, "load_config"):
            config = dict(component_class.load_config(path, local_files_only=True))
            return component_class.from_config(_shallow(config))
        config = component_class.config_class.from_pretrained(path, local_files_only=True)
        if hasattr(config, QUANTISATION):
            delattr(config, QUANTISATION)
        _shrink_encoder(config, keep_depth=keep_depth)
        return component_class(config)
    finally:
        torch.set_default_dtype(default)


def _shallow(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config with fewer layers, whose weights are not quantised: random ones are not."""
    small = {key: value for key, value in config.items() if key != QUANTISATION}
    for key in DEPTH_KEYS:
        if isinstance(small.get(key), int):
            small[key] = min(small[key], LAYERS)
    return small


def _shrink_encoder(config: Any, *, keep_depth: bool) -> None:
    """Takes layers and inner width from a transformers config, and from those inside of it."""
    for key in ENCODER_WIDTH_KEYS:
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, min(getattr(config, key), ENCODER_WIDTH))
    if not keep_depth:
        for key in ENCODER_DEPTH_KEYS:
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, min(getattr(config, key), ENCODER_LAYERS))
        if isinstance(getattr(config, "layer_types", None), list):
            config.layer_types = config.layer_types[:ENCODER_LAYERS]
    for key in ("text_config", "vision_config", "audio_config"):
        if getattr(config, key, None) is not None:
            _shrink_encoder(getattr(config, key), keep_depth=keep_depth)
