"""Tiny image models. Their VAEs shrink by 2, 4 or 32, not by 8: a role that guesses 8 for want of a shell shows."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)

from testbed.zoo import texts
from testbed.zoo.family import Components
from testbed.zoo.texts import weights


def kl(seed: int, widths: tuple[int, ...], latent: int, **config: Any) -> Any:
    """An AutoencoderKL that shrinks by 2 to the power of (stages - 1)."""
    with weights(seed):
        return AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=1,
            latent_channels=latent,
            norm_num_groups=4,
            sample_size=32,
            **config,
        ).eval()


def flow_kl(seed: int, widths: tuple[int, ...], latent: int) -> Any:
    return kl(
        seed,
        widths,
        latent,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def _unet(seed: int, **config: Any) -> Any:
    with weights(seed):
        return UNet2DConditionModel(
            block_out_channels=(8, 16),
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            **config,
        ).eval()


def sd15_unet(seed: int, **config: Any) -> Any:
    return _unet(seed, layers_per_block=1, cross_attention_dim=32, attention_head_dim=4, **config)


def sd15() -> Components:
    return {
        "unet": sd15_unet(11),
        # Draws noise at every step, so that a generator which is not where it should be shows.
        "scheduler": EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        "vae": kl(12, (8, 8, 8), 4),
        "text_encoder": texts.clip_text(13),
        "tokenizer": texts.clip_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
    }


def sdxl() -> Components:
    return {
        "unet": _unet(
            21,
            layers_per_block=2,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 32,
            cross_attention_dim=64,
        ),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        "vae": kl(22, (8, 8), 4),
        "text_encoder": texts.clip_text(23),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.clip_text(24, projection=True),
        "tokenizer_2": texts.clip_tokenizer(),
        "image_encoder": None,
        "feature_extractor": None,
    }


def sd3() -> Components:
    with weights(31):
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": flow_kl(32, (8, 8, 8), 4),
        "text_encoder": texts.clip_text(33, projection=True),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.clip_text(34, projection=True),
        "tokenizer_2": texts.clip_tokenizer(),
        "text_encoder_3": texts.t5_text(35, width=64),
        "tokenizer_3": texts.t5_tokenizer(),
        "image_encoder": None,
        "feature_extractor": None,
    }


def flux() -> Components:
    with weights(41):
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": flow_kl(42, (8, 8), 4),
        "text_encoder": texts.clip_text(43),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.t5_text(44),
        "tokenizer_2": texts.t5_tokenizer(),
        "image_encoder": None,
        "feature_extractor": None,
    }


def kontext() -> Components:
    # diffusers scales a Kontext input to about a million pixels: 32 of them a latent keep that small.
    return flux() | {"vae": flow_kl(45, (4, 4, 4, 4, 4, 8), 4)}


def klein() -> Components:
    with weights(51):
        transformer = Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ).eval()
    with weights(52):
        vae = AutoencoderKLFlux2(
            sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
        ).eval()
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 1.5)
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "text_encoder": texts.qwen3(53, layers=28, head=True),
        "tokenizer": texts.qwen_tokenizer(),
    }


def qwen() -> Components:
    with weights(61):
        transformer = QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ).eval()
    with weights(62):
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.1, 0.9, 1.2, 1.0],
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": vae,
        "text_encoder": texts.qwen25_vl(63),
        "tokenizer": texts.qwen_tokenizer(),
    }


def zimage() -> Components:
    with weights(71):
        transformer = ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ).eval()
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            token.data.fill_(1.0)
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": kl(72, (8, 16), 16, scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": texts.qwen3(73, head=False),
        "tokenizer": texts.qwen_tokenizer(),
    }


def pixart() -> Components:
    with weights(81):
        transformer = PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": DDIMScheduler(),
        "vae": kl(82, (8, 8), 4),
        "text_encoder": texts.t5_text(83),
        "tokenizer": texts.t5_tokenizer(),
    }


def sana() -> Components:
    with weights(91):
        transformer = SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=16,
            sample_size=16,
        ).eval()
    with weights(92):
        vae = AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": vae,
        "text_encoder": texts.gemma2(93),
        "tokenizer": texts.gemma_tokenizer(),
    }


def lumina2() -> Components:
    with weights(101):
        transformer = Lumina2Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            hidden_size=32,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(8, 4, 4),
            axes_lens=(300, 64, 64),
            cap_feat_dim=16,
        ).eval()
    return {
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        # Lumina 2 takes every VAE for one of 8 pixels a latent, whole or split.
        "vae": flow_kl(102, (8, 8, 8, 8), 4),
        "text_encoder": texts.gemma2(103),
        "tokenizer": texts.gemma_tokenizer(),
    }
