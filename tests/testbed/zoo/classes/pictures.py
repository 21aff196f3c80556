"""Transformers that draw pictures, of families that the zoo does not have, and what goes with them."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from testbed.zoo import texts
from testbed.zoo.classes import encoders
from testbed.zoo.classes.unets import with_channels
from testbed.zoo.family import Components
from testbed.zoo.images import flow_kl, kl
from testbed.zoo.texts import weights


def network(kind: str, seed: int, **config: Any) -> Any:
    """A network of this class of diffusers, with weights by the seed."""
    with weights(seed):
        return getattr(diffusers, kind)(**config).eval()


def flux_fill(made: Components) -> Components:
    """Its network takes the masked picture's latents and the mask's pixels beside the others."""
    latents, pixels = 16, 2 * 2 * 2 * 2
    channels = {"in_channels": 2 * latents + pixels, "out_channels": latents}
    return {"transformer": with_channels(made["transformer"], 401, **channels)}


def _flow(seed: int, transformer: Any, widths: tuple[int, ...] = (8, 8)) -> Components:
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": flow_kl(seed, widths, 4),
    }


def sd3_wide(made: Components) -> Components:
    """As many latent channels as published ones have: inpainting takes no others."""
    channels = {"in_channels": 16, "out_channels": 16}
    return {
        "transformer": with_channels(made["transformer"], 402, **channels),
        "vae": flow_kl(403, (8, 8, 8), 16),
    }


_FLUX_LIKE = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": [4, 4, 8],
}


def aura_flow() -> Components:
    transformer = network(
        "AuraFlowTransformer2DModel",
        411,
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    return _flow(412, transformer) | encoders.t5(413)


def bria() -> Components:
    transformer = network("BriaTransformer2DModel", 421, **_FLUX_LIKE, pooled_projection_dim=None)
    return _flow(422, transformer) | encoders.t5(423)


def chroma() -> Components:
    transformer = network(
        "ChromaTransformer2DModel",
        431,
        **_FLUX_LIKE,
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return _flow(432, transformer) | encoders.t5(433)


def ovis() -> Components:
    transformer = network(
        "OvisImageTransformer2DModel", 441, **_FLUX_LIKE | {"joint_attention_dim": 16}, out_channels=16
    )
    return _flow(442, transformer) | {
        "text_encoder": texts.qwen3(443, head=False),
        "tokenizer": texts.qwen_tokenizer(),
    }


_COGVIEW = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "time_embed_dim": 8,
    "condition_dim": 4,
    "pos_embed_max_size": 32,
    "sample_size": 16,
}


def cogview3() -> Components:
    transformer = network("CogView3PlusTransformer2DModel", 451, **_COGVIEW, text_embed_dim=32)
    return {
        "transformer": transformer,
        "vae": kl(452, (8, 8), 4),
        "scheduler": diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, rescale_betas_zero_snr=True),
        **encoders.t5(453),
    }


def cogview4() -> Components:
    transformer = network(
        "CogView4Transformer2DModel",
        461,
        **_COGVIEW | {"attention_head_dim": 16},
        text_embed_dim=16,
        rope_axes_dim=(8, 8),
    )
    return _flow(462, transformer) | {
        "text_encoder": encoders.glm(463),
        "tokenizer": encoders.llama_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    }


def cogview4_control(made: Components) -> Components:
    return {"transformer": with_channels(made["transformer"], 464, in_channels=8)}


def hunyuan_dit() -> Components:
    transformer = network(
        "HunyuanDiT2DModel",
        471,
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    return {
        "transformer": transformer,
        "vae": kl(472, (8, 8, 8, 8), 4),
        "scheduler": diffusers.DDPMScheduler(),
        "text_encoder": encoders.bert(473),
        "tokenizer": encoders.bert_tokenizer(),
        "text_encoder_2": texts.t5_text(474),
        "tokenizer_2": texts.t5_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
    }


def lumina() -> Components:
    transformer = network(
        "LuminaNextDiT2DModel",
        481,
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=16,
    )
    return _flow(482, transformer, (8, 8, 8, 8)) | {
        "text_encoder": texts.gemma2(483),
        "tokenizer": texts.gemma_tokenizer(),
    }


def hidream() -> Components:
    transformer = network(
        "HiDreamImageTransformer2DModel",
        491,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    return _flow(492, transformer) | {
        "text_encoder": texts.clip_text(493, projection=True),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.clip_text(494, projection=True),
        "tokenizer_2": texts.clip_tokenizer(),
        "text_encoder_3": texts.t5_text(495),
        "tokenizer_3": texts.t5_tokenizer(),
        "text_encoder_4": encoders.llama(496, head=True),
        "tokenizer_4": encoders.llama_tokenizer(),
    }


def prx() -> Components:
    transformer = network(
        "PRXTransformer2DModel",
        501,
        patch_size=1,
        in_channels=4,
        context_in_dim=32,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
    )
    return _flow(502, transformer) | encoders.t5(503)


def hunyuan_image() -> Components:
    transformer = network(
        "HunyuanImageTransformer2DModel",
        511,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=16,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = network(
        "AutoencoderKLHunyuanImage",
        512,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=32,
    )
    guider = diffusers.AdaptiveProjectedMixGuidance
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": texts.qwen25_vl(513),
        "tokenizer": texts.qwen_tokenizer(),
        "text_encoder_2": texts.t5_text(514),
        "tokenizer_2": texts.byt5_tokenizer(),
        "guider": guider(adaptive_projected_guidance_start_step=2),
        "ocr_guider": guider(adaptive_projected_guidance_start_step=2),
    }


def dit() -> Components:
    transformer = network(
        "DiTTransformer2DModel",
        521,
        sample_size=16,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return {"transformer": transformer, "vae": kl(522, (8, 8), 4), "scheduler": diffusers.DDIMScheduler()}


def amused() -> Components:
    transformer = network(
        "UVit2DModel",
        531,
        hidden_size=8,
        use_bias=False,
        hidden_dropout=0.0,
        cond_embed_dim=32,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=32,
        vocab_size=32,
        codebook_size=32,
        in_channels=8,
        block_out_channels=8,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        attention_dropout=0.0,
        intermediate_size=8,
        layer_norm_eps=1e-06,
        ln_elementwise_affine=True,
        sample_size=8,
    )
    vqvae = network(
        "VQModel",
        532,
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=8,
        num_vq_embeddings=32,
        norm_num_groups=4,
        layers_per_block=1,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        sample_size=32,
    )
    return {
        "transformer": transformer,
        "vqvae": vqvae,
        "scheduler": diffusers.AmusedScheduler(mask_token_id=31),
        "text_encoder": texts.clip_text(533, projection=True),
        "tokenizer": texts.clip_tokenizer(),
    }


def sprint(made: Components) -> Components:
    return {
        "transformer": with_channels(made["transformer"], 541, guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        "scheduler": diffusers.SCMScheduler(),
    }


def z_control(made: Components) -> Components:
    config = made["transformer"].config
    controlnet = network(
        "ZImageControlNetModel",
        551,
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=config.in_channels,
        all_patch_size=config.all_patch_size,
        all_f_patch_size=config.all_f_patch_size,
        dim=config.dim,
        n_refiner_layers=config.n_refiner_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
    )
    return {"controlnet": controlnet}
