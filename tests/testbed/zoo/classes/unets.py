"""Components of UNet pipelines that the zoo's families do not have."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, UNet2DConditionModel, UNet2DModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from testbed.zoo import texts
from testbed.zoo.family import Components
from testbed.zoo.images import kl
from testbed.zoo.texts import weights


def with_channels(unet: Any, seed: int, **config: Any) -> Any:
    """A network as this one, with other values in its configuration."""
    kept = {name: value for name, value in unet.config.items() if name[0] != "_"}
    with weights(seed):
        return type(unet)(**{**kept, **config}).eval()


def edits(made: Components) -> Components:
    """A network that takes a picture's latents beside the others."""
    return {"unet": with_channels(made["unet"], 301, in_channels=8)}


def upscale(made: Components) -> Components:
    """A network that takes a small picture beside the latents, and how noisy it is."""
    return ddim() | {
        "unet": with_channels(made["unet"], 303, in_channels=7, num_class_embeds=1000),
        "low_res_scheduler": DDPMScheduler(),
        "vae": kl(304, (8, 8, 8), 4),
    }


def depth(made: Components) -> Components:
    return {"unet": with_channels(made["unet"], 305, in_channels=5)}


def ddim() -> Components:
    return {
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        )
    }


def lcm(made: Components) -> Components:
    return {
        "unet": with_channels(made["unet"], 306, time_cond_proj_dim=8),
        "scheduler": LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    }


def ldm3d() -> Components:
    """Its autoencoder holds a picture and how far away things are in it."""
    return ddim() | {"vae": kl(302, (8, 8, 8), 4, in_channels=6, out_channels=6)}


def eyes() -> Components:
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        intermediate_size=32,
        patch_size=8,
    )
    with weights(307):
        encoder = CLIPVisionModelWithProjection(config).eval()
    return {
        "image_encoder": encoder,
        "feature_extractor": CLIPImageProcessor(crop_size=32, size=32),
        "image_processor": CLIPImageProcessor(crop_size=32, size=32),
    }


def _plain_unet(seed: int, **config: Any) -> Any:
    kept = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    with weights(seed):
        return UNet2DModel(**{**kept, **config}).eval()


def unconditional() -> Components:
    return {"unet": _plain_unet(311), "scheduler": DDIMScheduler()}


def consistency() -> Components:
    return {"unet": _plain_unet(312), "scheduler": diffusers.CMStochasticIterativeScheduler()}


def denoising_diffusion() -> Components:
    return {"unet": _plain_unet(313), "scheduler": DDPMScheduler()}


def latent_diffusion() -> Components:
    with weights(314):
        vqvae = diffusers.VQModel(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3,
            norm_num_groups=4,
        ).eval()
    return {"unet": _plain_unet(315), "vqvae": vqvae, "scheduler": DDIMScheduler()}


def super_resolution() -> Components:
    return latent_diffusion() | {"unet": _plain_unet(316, in_channels=6)}


def deep_floyd() -> Components:
    """It draws pixels, and has nothing to decode."""
    with weights(321):
        unet = UNet2DConditionModel(
            sample_size=32,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            in_channels=3,
            out_channels=6,
            cross_attention_dim=32,
            encoder_hid_dim=32,
            attention_head_dim=8,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
            norm_num_groups=4,
        ).eval()
    return {
        "unet": unet,
        "scheduler": DDPMScheduler(variance_type="learned_range"),
        "text_encoder": texts.t5_text(322),
        "tokenizer": texts.t5_tokenizer(),
    }


def deep_floyd_larger() -> Components:
    made = deep_floyd()
    unet = with_channels(made["unet"], 323, in_channels=6, class_embed_type="timestep", class_embeddings_concat=False)
    return made | {"unet": unet, "image_noising_scheduler": DDPMScheduler()}


def _movq(seed: int) -> Any:
    with weights(seed):
        return diffusers.VQModel(
            block_out_channels=[32, 64],
            down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        ).eval()


def kandinsky3() -> Components:
    with weights(331):
        unet = diffusers.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=4,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(32, 64),
            cross_attention_dim=4,
            encoder_hid_dim=32,
        ).eval()
    return {
        "unet": unet,
        "movq": _movq(332),
        "scheduler": DDPMScheduler(),
        "text_encoder": texts.t5_text(333),
        "tokenizer": texts.t5_tokenizer(),
    }


def kandinsky22() -> Components:
    with weights(341):
        unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim=16,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=16,
            block_out_channels=(8, 16),
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            layers_per_block=1,
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=4,
            norm_num_groups=4,
        ).eval()
    return {"unet": unet, "movq": _movq(342), "scheduler": DDIMScheduler(clip_sample=False)}


def kandinsky_prior() -> Components:
    with weights(343):
        prior = diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1
        ).eval()
        prior.clip_std.data.fill_(1.0)
    return eyes() | {
        "prior": prior,
        "text_encoder": texts.clip_text(344, projection=True),
        "tokenizer": texts.clip_tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=10.0
        ),
    }


def _of_time(kind: str, seed: int, **config: Any) -> Any:
    with weights(seed):
        return getattr(diffusers, kind)(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=32,
            **config,
        ).eval()


def text_to_video(made: Components) -> Components:
    return ddim() | {"unet": _of_time("UNet3DConditionModel", 351, attention_head_dim=4)}


def sound() -> Components:
    with weights(361):
        unet = diffusers.UNet1DModel(
            block_out_channels=(32, 32, 64),
            extra_in_channels=64,
            sample_size=512,
            sample_rate=16_000,
            in_channels=2,
            out_channels=2,
            flip_sin_to_cos=True,
            use_timestep_embedding=False,
            time_embedding_type="fourier",
            mid_block_type="UNetMidBlock1D",
            down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
            up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
        ).eval()
    return {"unet": unet, "scheduler": diffusers.IPNDMScheduler()}
