"""A checkpoint with the shapes of a published model and random weights: for measuring where no model hub is.

What it draws is noise, but it computes, ships and writes what the real one would: time does not depend on the values.

    python benchmarks/models/random_weights.py sdxl FOLDER

`encoder_layers`: that many layers in each text encoder, where only what comes after it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from testbed.zoo import texts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(kind: Callable[..., Any], *config: Any, **fields: Any) -> Any:
    """A module with weights in bfloat16, drawn where that is quick."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):
            return kind(*config, **fields)
    finally:
        torch.set_default_dtype(torch.float32)


def clip(*, projection: bool, encoder_layers: int | None) -> Any:
    """The text encoders of SDXL: CLIP ViT-L, and OpenCLIP ViT-bigG with its projection."""
    width, layers, heads = (1280, 32, 20) if projection else (768, 12, 12)
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=encoder_layers or layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=0,
        eos_token_id=1,  # as the tokenizer of these tests has it
        pad_token_id=1,
    )
    return drawn(CLIPTextModelWithProjection if projection else CLIPTextModel, config)


def vae(latents: int, **config: Any) -> Any:
    return drawn(
        AutoencoderKL,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latents,
        sample_size=1024,
        **config,
    )


def sdxl(encoder_layers: int | None = None) -> Any:
    """Stable Diffusion XL base 1.0: a UNet of 2.6 billion parameters."""
    return StableDiffusionXLPipeline(
        unet=drawn(
            UNet2DConditionModel,
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        vae=vae(4, scaling_factor=0.13025),
        text_encoder=clip(projection=False, encoder_layers=encoder_layers),
        text_encoder_2=clip(projection=True, encoder_layers=encoder_layers),
        tokenizer=texts.clip_tokenizer(),
        tokenizer_2=texts.clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )


def flux(encoder_layers: int | None = None) -> Any:
    """FLUX.1-dev: a transformer of 12 billion parameters, and T5-XXL's encoder of 4.8."""
    t5 = T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=encoder_layers or 24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return FluxPipeline(
        transformer=drawn(FluxTransformer2DModel, guidance_embeds=True),
        vae=vae(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(projection=False, encoder_layers=encoder_layers),
        text_encoder_2=drawn(T5EncoderModel, t5),
        tokenizer=texts.clip_tokenizer(),
        tokenizer_2=texts.t5_tokenizer(512),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )


def wan(encoder_layers: int | None = None) -> Any:
    """Wan 2.1 T2V 1.3B, and UMT5-XXL's encoder."""
    umt5 = UMT5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=encoder_layers or 24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return WanPipeline(
        transformer=drawn(WanTransformer3DModel, num_attention_heads=12, ffn_dim=8960, num_layers=30),
        vae=drawn(AutoencoderKLWan),
        text_encoder=drawn(UMT5EncoderModel, umt5),
        tokenizer=texts.t5_tokenizer(512),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


MODELS: dict[str, Callable[..., Any]] = {"sdxl": sdxl, "flux": flux, "wan": wan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    MODELS[options.model]().save_pretrained(options.folder)


if __name__ == "__main__":
    main()
