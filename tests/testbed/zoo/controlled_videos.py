"""Tiny video models that are led by a video, by masks of one, or by pictures beside it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel, WanVACETransformer3DModel

from testbed.zoo import videos
from testbed.zoo.family import Components
from testbed.zoo.texts import weights


def _vace_transformer(seed: int, *, spatial: int) -> Any:
    """`spatial` is how far the VAE shrinks: its masks come as that many pixels squared a latent."""
    latents = 16
    with weights(seed):
        return WanVACETransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=latents,
            out_channels=latents,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=3,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
            vace_layers=[0, 2],
            vace_in_channels=2 * latents + spatial**2,
        ).eval()


def wan21_vace() -> Components:
    return videos.wan21() | {"transformer": _vace_transformer(211, spatial=4)}


def wan22_vace() -> Components:
    return wan21_vace() | {"transformer_2": _vace_transformer(212, spatial=4)}


def wan_frames() -> Components:
    """Its network tells what is seen in the first frame from what is seen in the last by their place."""
    components = videos.wan_image()
    seen = 4 * 4 + 1
    config = {name: value for name, value in components["transformer"].config.items() if name[0] != "_"}
    with weights(231):
        transformer = WanTransformer3DModel(**{**config, "pos_embed_seq_len": 2 * seen}).eval()
        torch.nn.init.normal_(transformer.condition_embedder.image_embedder.pos_embed)
    return components | {"transformer": transformer}


def cogvideox_control() -> Components:
    """Its network takes the control video's latents beside the others."""
    components = videos.cogvideox()
    config = {name: value for name, value in components["transformer"].config.items() if name[0] != "_"}
    with weights(221):
        transformer = CogVideoXTransformer3DModel(**{**config, "in_channels": 8, "out_channels": 4}).eval()
    return components | {"transformer": transformer}
