"""Tiny video models, and what turns a picture into one."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Transformer3DModel,
    LatteTransformer3DModel,
    LTX2VideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from testbed.zoo import texts
from testbed.zoo.family import Components
from testbed.zoo.images import kl
from testbed.zoo.texts import weights


def wan_vae(seed: int, *, stages: int) -> Any:
    """Shrinks by 2 to the power of `stages` in space; in time by 2 (two stages) or 4 (three)."""
    with weights(seed):
        return AutoencoderKLWan(
            base_dim=4,
            z_dim=16,
            dim_mult=[1] * (stages + 1),
            num_res_blocks=1,
            temperal_downsample=[False] + [True] * (stages - 1),
            scale_factor_spatial=2**stages,
            scale_factor_temporal=2 ** (stages - 1),
        ).eval()


def _wan_transformer(seed: int, **config: Any) -> Any:
    channels = {"in_channels": 16} | config
    with weights(seed):
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
            **channels,
        ).eval()


def _unipc() -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan21() -> Components:
    return {
        "transformer": _wan_transformer(111),
        "transformer_2": None,
        "scheduler": _unipc(),
        "vae": wan_vae(112, stages=2),
        "text_encoder": texts.t5_text(113),
        "tokenizer": texts.t5_tokenizer(),
    }


def wan22() -> Components:
    return wan21() | {"transformer_2": _wan_transformer(121)}


def _vision(seed: int, width: int, size: int) -> Any:
    config = CLIPVisionConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        intermediate_size=2 * width,
        patch_size=size // 4,
    )
    with weights(seed):
        return CLIPVisionModelWithProjection(config).eval()


def wan_image() -> Components:
    return wan21() | {
        "transformer": _wan_transformer(131, in_channels=16 + 16 + 4, image_dim=8),
        "vae": wan_vae(132, stages=3),
        "image_encoder": _vision(133, 8, 32),
        "image_processor": CLIPImageProcessor(crop_size=32, size=32),
    }


def wan22_image() -> Components:
    """Without an image encoder: the first frame comes as latents alone."""
    channels = 16 + 16 + 4
    networks = {"transformer": _wan_transformer(135, in_channels=channels)}
    networks |= {"transformer_2": _wan_transformer(136, in_channels=channels), "vae": wan_vae(137, stages=3)}
    return wan21() | networks | {"image_encoder": None, "image_processor": None}


def hunyuan15() -> Components:
    with weights(141):
        transformer = HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            patch_size=1,
            patch_size_t=1,
            text_embed_dim=16,
            text_embed_2_dim=32,
            image_embed_dim=12,
            rope_axes_dim=(2, 2, 4),
            target_size=16,
            task_type="t2v",
        ).eval()
    with weights(142):
        vae = AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=2,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval()
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": texts.qwen25_text(143),
        "tokenizer": texts.qwen_tokenizer(),
        "text_encoder_2": texts.t5_text(144),
        "tokenizer_2": texts.byt5_tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=1.0),
    }


def ltx() -> Components:
    with weights(151):
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        ).eval()
    with weights(152):
        vae = AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
        ).eval()
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 1.5)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": texts.t5_text(153),
        "tokenizer": texts.t5_tokenizer(),
    }


def ltx2() -> Components:
    text_encoder = texts.gemma3(161)
    with weights(162):
        transformer = LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            qk_norm="rms_norm_across_heads",
            caption_channels=16,
            rope_double_precision=False,
            rope_type="split",
        ).eval()
        connectors = LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=3,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_theta=10000.0,
            rope_double_precision=False,
            causal_temporal_positioning=False,
            rope_type="split",
        ).eval()
        vae = AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
        ).eval()
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 1.5)
        audio_vae = AutoencoderKLLTX2Audio(
            base_channels=4,
            output_channels=2,
            ch_mult=(1,),
            num_res_blocks=1,
            attn_resolutions=None,
            in_channels=2,
            resolution=32,
            latent_channels=2,
            norm_type="pixel",
            causality_axis="height",
            dropout=0.0,
            mid_block_add_attention=False,
            sample_rate=16000,
            mel_hop_length=160,
            is_causal=True,
            mel_bins=8,
        ).eval()
        vocoder = LTX2Vocoder(
            in_channels=16,
            hidden_channels=32,
            out_channels=2,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
            leaky_relu_negative_slope=0.1,
            output_sampling_rate=16000,
        ).eval()
    return {
        "transformer": transformer,
        "vae": vae,
        "audio_vae": audio_vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": text_encoder,
        "tokenizer": texts.gemma_tokenizer(),
        "connectors": connectors,
        "vocoder": vocoder,
    }


def cogvideox() -> Components:
    with weights(171):
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
        ).eval()
    with weights(172):
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ).eval()
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": DDIMScheduler(),
        "text_encoder": texts.t5_text(173),
        "tokenizer": texts.t5_tokenizer(),
    }


def latte() -> Components:
    with weights(181):
        transformer = LatteTransformer3DModel(
            sample_size=16,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ).eval()
    return {
        "transformer": transformer,
        "vae": kl(182, (8, 8), 4),
        "scheduler": DDIMScheduler(),
        "text_encoder": texts.t5_text(183),
        "tokenizer": texts.t5_tokenizer(),
    }


def svd() -> Components:
    with weights(191):
        unet = UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 32),
            layers_per_block=1,
            sample_size=16,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=(2, 2),
            projection_class_embeddings_input_dim=3 * 16,
            addition_time_embed_dim=16,
        ).eval()
    with weights(192):
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
        ).eval()
    return {
        "unet": unet,
        "vae": vae,
        "image_encoder": _vision(193, 32, 224),
        "feature_extractor": CLIPImageProcessor(crop_size=224, size=224),
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
    }
