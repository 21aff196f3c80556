"""The encoders that look at the pictures of IP-Adapters: CLIP's or SigLIP's vision model, alone or in a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection
from transformers import CLIPImageProcessor, SiglipImageProcessor

from diffusion_worker.model.failures import told
from diffusion_worker.model.files import read_json
from diffusion_worker.model.folder import ModelFolder, load_component
from diffusion_worker.model.types import IPAdapterFiles, UnsupportedModel

CLIP: Final = "CLIPVisionModelWithProjection"
SIGLIP: Final = "SiglipVisionModel"
_TYPES: Final = {CLIP: ("clip_vision_model", "clip"), SIGLIP: ("siglip_vision_model", "siglip")}
"""By class: what a config says of the encoder alone, and of the whole model that it is a part of."""
_OTHER_PARTS: Final = ("text_model.", "text_projection.", "logit_")
"""Of such a whole model, by how their tensors' names begin."""


def load_encoder(
    encoder_class: str, path: Path, *, dtype: torch.dtype, device: str, variant: str, allow_pickle: bool
) -> torch.nn.Module:
    """The encoder in a folder. Raises UnsupportedModel."""
    types = _TYPES[encoder_class]
    found = read_json(path / "config.json").get("model_type")
    if found not in types:
        raise UnsupportedModel(
            f"{path}: it is of type {found}, and these IP-Adapters are shown pictures by a {' or '.join(types)}"
        )
    # A folder of one component, which is the encoder.
    alone = ModelFolder(path.parent, "", {path.name: ("transformers", encoder_class)}, {}, variant=variant)
    alone.weights(path.name, allow_pickle=allow_pickle)
    made: torch.nn.Module = load_component(
        alone,
        path.name,
        dtype=dtype,
        device=device,
        allow_pickle=allow_pickle,
        other_parts=_OTHER_PARTS if found == types[1] else (),
    )
    return made


def extractor_for(encoder: Any) -> CLIPImageProcessor | SiglipImageProcessor:
    """What makes pictures into an encoder's input where the model's folder has none: as diffusers' loaders make it."""
    size = encoder.config.image_size
    if encoder.config.model_type in _TYPES[SIGLIP]:
        return SiglipImageProcessor(size={"height": size, "width": size})
    return CLIPImageProcessor(size=size, crop_size=size)


def check_fits(projection: torch.nn.Module, encoder: Any, of: IPAdapterFiles) -> None:
    """Raises UnsupportedModel unless `projection`, on the CPU and of float32, takes what the encoder makes."""
    config = encoder.config
    # Of a whole picture, or of each of its patches.
    embedding = (1, config.projection_dim) if isinstance(projection, ImageProjection) else (1, 2, config.hidden_size)
    timestep = [torch.ones(1)] if isinstance(projection, IPAdapterTimeImageProjection) else []
    try:
        with torch.no_grad():
            projection(torch.zeros(embedding), *timestep)
    except Exception as error:
        raise UnsupportedModel(
            f"{of.image_encoder} is not the encoder that {of.file} was trained with: name that ({told(error)})"
        ) from error
