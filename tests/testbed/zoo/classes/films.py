"""Transformers that draw videos, of families that the zoo does not have, and what goes with them."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from testbed.zoo import texts, videos
from testbed.zoo.classes import encoders
from testbed.zoo.classes.pictures import network
from testbed.zoo.classes.unets import with_channels
from testbed.zoo.family import Components


def mochi() -> Components:
    transformer = network(
        "MochiTransformer3DModel",
        601,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = network(
        "AutoencoderKLMochi",
        602,
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        **encoders.t5(603),
    }


def allegro() -> Components:
    transformer = network(
        "AllegroTransformer3DModel",
        611,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=32,
    )
    vae = network(
        "AutoencoderKLAllegro",
        612,
        in_channels=3,
        out_channels=3,
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return {"transformer": transformer, "vae": vae, "scheduler": diffusers.DDIMScheduler(), **encoders.t5(613)}


def _hunyuan_vae(seed: int) -> Any:
    return network(
        "AutoencoderKLHunyuanVideo",
        seed,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )


_HUNYUAN = {
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 1,
    "patch_size_t": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 32,
    "rope_axes_dim": (2, 4, 4),
}


def _hunyuan(transformer: Any, seed: int) -> Components:
    return {
        "transformer": transformer,
        "vae": _hunyuan_vae(seed),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": encoders.llama(seed + 1, head=False),
        "tokenizer": encoders.llama_tokenizer(),
        "text_encoder_2": texts.clip_text(seed + 2),
        "tokenizer_2": texts.clip_tokenizer(),
    }


def hunyuan() -> Components:
    return _hunyuan(
        network("HunyuanVideoTransformer3DModel", 621, in_channels=4, guidance_embeds=True, **_HUNYUAN), 622
    )


def skyreels_image() -> Components:
    transformer = network("HunyuanVideoTransformer3DModel", 631, in_channels=8, guidance_embeds=True, **_HUNYUAN)
    return _hunyuan(transformer, 632)


_SKYREELS = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}


def skyreels() -> Components:
    return videos.wan21() | {
        "transformer": network("SkyReelsV2Transformer3DModel", 651, in_channels=16, **_SKYREELS),
        "scheduler": _steps(),
        "vae": videos.wan_vae(652, stages=3),
    }


def skyreels_of_images() -> Components:
    return videos.wan_image() | {
        "transformer": network("SkyReelsV2Transformer3DModel", 653, in_channels=36, image_dim=8, **_SKYREELS),
        "scheduler": _steps(),
    }


def skyreels_forcing() -> Components:
    return skyreels() | {
        "transformer": network(
            "SkyReelsV2Transformer3DModel", 654, in_channels=16, inject_sample_info=False, **_SKYREELS
        )
    }


def _steps() -> Any:
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)


def vace() -> Components:
    return videos.wan21() | {
        "transformer": network(
            "WanVACETransformer3DModel", 661, in_channels=16, **_SKYREELS, vace_layers=[0], vace_in_channels=96
        ),
        "vae": videos.wan_vae(662, stages=3),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def chrono() -> Components:
    return videos.wan_image() | {
        "transformer": network(
            "ChronoEditTransformer3DModel", 671, in_channels=36, image_dim=8, **_SKYREELS, rope_temporal_skip_len=8
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def lucy(made: Components) -> Components:
    return {
        "transformer": with_channels(made["transformer"], 681, in_channels=32),
        "vae": videos.wan_vae(682, stages=3),
        "scheduler": _steps(),
    }


def sana() -> Components:
    transformer = network(
        "SanaVideoTransformer3DModel",
        691,
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        mlp_ratio=2.5,
        sample_size=8,
        patch_size=(1, 2, 2),
        rope_max_seq_len=32,
    )
    return {
        "transformer": transformer,
        "vae": videos.wan_vae(692, stages=3),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": texts.gemma2(693),
        "tokenizer": texts.gemma_tokenizer(),
    }


def cogvideo_of_images(made: Components) -> Components:
    return {
        "transformer": with_channels(made["transformer"], 701, in_channels=8, use_rotary_positional_embeddings=False)
    }


def helios() -> Components:
    return videos.wan21() | {
        "transformer": network(
            "HeliosTransformer3DModel",
            711,
            in_channels=16,
            **{name: value for name, value in _SKYREELS.items() if name != "rope_max_seq_len"},
            rope_dim=(4, 4, 4),
            has_multi_term_memory_patch=True,
            guidance_cross_attn=True,
            zero_history_timestep=True,
            is_amplify_history=False,
        ),
        "scheduler": diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True),
        "vae": videos.wan_vae(712, stages=3),
    }


def easy_animate() -> Components:
    transformer = network(
        "EasyAnimateTransformer3DModel",
        721,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        sample_width=16,
        sample_height=16,
        num_layers=1,
        mmdit_layers=1,
        time_embed_dim=2,
        text_embed_dim=16,
        time_position_encoding_type="3d_rope",
        after_norm=False,
        enable_text_attention_mask=True,
    )
    vae = network(
        "AutoencoderKLMagvit",
        722,
        in_channels=3,
        latent_channels=4,
        out_channels=3,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": texts.qwen25_vl(723),
        "tokenizer": texts.qwen_tokenizer(),
    }
