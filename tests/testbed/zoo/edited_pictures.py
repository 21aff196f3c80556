"""Tiny models that edit pictures which they see twice: as a language model does, and as latents."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

from testbed.zoo import images, texts
from testbed.zoo.family import Components
from testbed.zoo.texts import weights


def _vae(seed: int, latents: int = 4, **config: Any) -> Any:
    """diffusers scales a picture to edit to about a million pixels: 16 of them a latent keep that small."""
    with weights(seed):
        return AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=latents,
            dim_mult=[1] * 5,
            num_res_blocks=1,
            temperal_downsample=[False] * 3 + [True],
            latents_mean=[0.1, -0.2, 0.3, 0.0] * (latents // 4),
            latents_std=[1.1, 0.9, 1.2, 1.0] * (latents // 4),
            **config,
        ).eval()


def _processor() -> Any:
    """Shows pictures to the language model as few patches."""
    sides = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=sides),
        tokenizer=texts.qwen_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(),
    )


def qwen_edit() -> Components:
    return images.qwen() | {"vae": _vae(241), "text_encoder": texts.qwen25_vl(242), "processor": _processor()}


def qwen_layered() -> Components:
    """Its pictures have an alpha channel. (diffusers would take one of as many channels as latents have for these.)"""
    components = qwen_edit()
    config = {name: value for name, value in components["transformer"].config.items() if name[0] != "_"}
    layers = {"in_channels": 32, "out_channels": 8, "use_additional_t_cond": True, "use_layer3d_rope": True}
    with weights(252):
        transformer = QwenImageTransformer2DModel(**config | layers).eval()
    return components | {"transformer": transformer, "vae": _vae(251, latents=8, input_channels=4)}
