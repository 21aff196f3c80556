"""Networks that lead others, made from what they lead."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    ControlNetXSAdapter,
    FluxControlNetModel,
    HunyuanDiT2DControlNetModel,
    MotionAdapter,
    QwenImageControlNetModel,
    SanaControlNetModel,
    SD3ControlNetModel,
    SparseControlNetModel,
    T2IAdapter,
    UNet2DConditionModel,
)

from testbed.zoo.family import Components
from testbed.zoo.texts import weights


def _speaking(network: Any) -> Any:
    """With values where such a network begins with zeros, and so as one that says nothing."""
    for zero in (weight for weight in network.parameters() if not weight.any()):
        torch.nn.init.normal_(zero, std=0.2)
    return network.eval()


def shared(network: Any, other: Any) -> dict[str, Any]:
    """The network's configuration, as far as another class takes it."""
    taken = inspect.signature(other.__init__).parameters
    return {name: value for name, value in network.config.items() if name in taken and name[0] != "_"}


def _halvings(vae: Any) -> tuple[int, ...]:
    """Widths of an embedding that shrinks a picture as the autoencoder does."""
    return (16, 32, 32, 32)[: len(vae.config.block_out_channels)]


def unet(made: Components) -> Components:
    with weights(202):
        widths = _halvings(made["vae"])
        controlnet = ControlNetModel.from_unet(made["unet"], conditioning_embedding_out_channels=widths)
        return {"controlnet": _speaking(controlnet)}


def union(made: Components) -> Components:
    config = shared(made["unet"], ControlNetUnionModel) | {
        "conditioning_embedding_out_channels": _halvings(made["vae"])
    }
    size = {"num_trans_channel": 8, "num_trans_head": 2, "num_trans_layer": 1, "num_proj_channel": 8}
    with weights(203):
        return {"controlnet": _speaking(ControlNetUnionModel(**config, num_control_type=2, **size))}


def crossing(made: Components) -> Components:
    config = {name: value for name, value in made["unet"].config.items() if name[0] != "_"}
    with weights(204):
        unet = UNet2DConditionModel(**{**config, "layers_per_block": 2}).eval()
        crossing = ControlNetXSAdapter.from_unet(
            unet, size_ratio=1, conditioning_embedding_out_channels=_halvings(made["vae"])
        )
        return {"unet": unet, "controlnet": _speaking(crossing)}


def adapter(made: Components) -> Components:
    first, second = made["unet"].config.block_out_channels
    halved = 2 ** len(made["vae"].config.block_out_channels)
    with weights(205):
        network = T2IAdapter(
            channels=[first, second, second, second],
            num_res_blocks=1,
            downscale_factor=halved,
            adapter_type="full_adapter_xl",
        )
        return {"adapter": network.eval()}


def sd3(made: Components) -> Components:
    return _of_sd3(made, 206, 0)


def sd3_inpainting(made: Components) -> Components:
    return _of_sd3(made, 207, 1)


def _of_sd3(made: Components, seed: int, extra: int) -> Components:
    config = shared(made["transformer"], SD3ControlNetModel)
    config |= {"num_layers": 1, "extra_conditioning_channels": extra}
    with weights(seed):
        return {"controlnet": _speaking(SD3ControlNetModel(**config))}


def flux(made: Components) -> Components:
    with weights(208):
        network = FluxControlNetModel.from_transformer(
            made["transformer"], num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2
        )
        return {"controlnet": _speaking(network)}


def qwen(made: Components) -> Components:
    return _of_qwen(made, 209, 0)


def qwen_inpaint(made: Components) -> Components:
    return _of_qwen(made, 210, 4)


def _of_qwen(made: Components, seed: int, extra: int) -> Components:
    config = shared(made["transformer"], QwenImageControlNetModel)
    config |= {"num_layers": 1, "extra_condition_channels": extra}
    with weights(seed):
        return {"controlnet": _speaking(QwenImageControlNetModel(**config))}


def sana(made: Components) -> Components:
    with weights(211):
        return {"controlnet": _speaking(SanaControlNetModel(**shared(made["transformer"], SanaControlNetModel)))}


def hunyuan(made: Components) -> Components:
    config = shared(made["transformer"], HunyuanDiT2DControlNetModel)
    with weights(212):
        return {"controlnet": _speaking(HunyuanDiT2DControlNetModel(**config, transformer_num_layers=2))}


def motion(made: Components) -> Components:
    sdxl = "text_encoder_2" in made
    with weights(213):
        return {
            "motion_adapter": _speaking(
                MotionAdapter(
                    block_out_channels=made["unet"].config.block_out_channels,
                    motion_layers_per_block=made["unet"].config.layers_per_block,
                    motion_norm_num_groups=4,
                    motion_num_attention_heads=2,
                    motion_max_seq_length=32,
                    use_motion_mid_block=not sdxl,
                )
            )
        }


def sparse(made: Components) -> Components:
    config = made["unet"].config
    with weights(214):
        network = SparseControlNetModel(
            conditioning_channels=4,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
            cross_attention_dim=config.cross_attention_dim,
            num_attention_heads=2,
            norm_num_groups=4,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
            motion_max_seq_length=32,
            concat_conditioning_mask=True,
            use_simplified_condition_embedding=True,
        )
        return {"controlnet": _speaking(network)}
