"""Single files as people publish them: the networks of a pipeline folder in the layouts of the original programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Rename = tuple[str, str]

_RESNET: Sequence[Rename] = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
    (r"^(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
)
_UNET: Sequence[Rename] = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
_VAE: Sequence[Rename] = (
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up\.(\d+)\.resnets\.", r"up.\1.block."),
    (r"up\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_q\.", ".q."),
    (r"\.to_k\.", ".k."),
    (r"\.to_v\.", ".v."),
    (r"\.to_out\.0\.", ".proj_out."),
)
_WAN: Sequence[Rename] = (
    (r"^condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"^condition_embedder\.time_proj", "time_projection.1"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
    (r"scale_shift_table", "modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"\.norm2\.", ".norm3."),
)
_Z_IMAGE: Sequence[Rename] = (
    (r"^all_final_layer\.2-1\.", "final_layer."),
    (r"^all_x_embedder\.2-1\.", "x_embedder."),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
)


def ldm(folder: Path, file: Path) -> Path:
    """All networks of a Stable Diffusion 1 folder, as its authors' program writes them."""
    tensors = _named("model.diffusion_model.", _unet(_of(folder, "unet")))
    tensors |= _named("first_stage_model.", _vae(_of(folder, "vae")))
    clip = _of(folder, "text_encoder")
    tensors |= {f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": clip[key] for key in clip}
    return save(tensors, file)


def wan(folder: Path, file: Path, component: str = "transformer") -> Path:
    """The transformer of a Wan folder alone, or its other one."""
    return save(_renamed(_of(folder, component), _WAN), file)


def z_image(folder: Path, file: Path) -> Path:
    """The transformer of a Z-Image folder alone, with the prefix that ComfyUI gives it, and fused attention."""
    tensors = _renamed(_of(folder, "transformer"), _Z_IMAGE)
    for key in [key for key in tensors if key.endswith(".attention.to_q.weight")]:
        parts = [tensors.pop(key.replace("to_q", name)) for name in ("to_q", "to_k", "to_v")]
        tensors[key.replace("to_q", "qkv")] = torch.cat(parts)
    return save(_named("model.diffusion_model.", tensors), file)


def save(tensors: Mapping[str, torch.Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, {"format": "pt"})
    return file


def edited(file: Path, change: Callable[[Tensors], object]) -> Path:
    """The file, once `change` was done to its tensors."""
    tensors = load_file(file)
    change(tensors)
    return save(tensors, file)


def _of(folder: Path, component: str) -> Tensors:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def _renamed(tensors: Tensors, renames: Sequence[Rename]) -> Tensors:
    def rename(key: str) -> str:
        for old, new in renames:
            key = re.sub(old, new, key)
        return key

    return {rename(key): value for key, value in tensors.items()}


def _unet(tensors: Tensors) -> Tensors:
    """Its blocks are counted through, a layer and what comes after it each by one."""
    places = dict(_places(tensors))
    moved = {}
    for key, value in tensors.items():
        found = re.match(r"((?:down|up)_blocks\.\d+\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+)\.(.*)", key)
        moved[f"{places[found[1]]}.{found[2]}" if found else key] = value
    in_blocks = re.compile(r"(?!.*\.transformer_blocks\.)(input|output)_blocks|mid_block\.resnets")
    blocks = {key: value for key, value in moved.items() if in_blocks.match(key)}
    outer = {key: value for key, value in moved.items() if key not in blocks}
    return _renamed(outer, _UNET) | _renamed(blocks, (*_UNET, *_RESNET))


def _places(tensors: Tensors) -> Iterator[Rename]:
    layers = 1 + max(int(found[1]) for key in tensors if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)", key)))
    blocks = 1 + max(int(found[1]) for key in tensors if (found := re.match(r"down_blocks\.(\d+)", key)))
    for block in range(blocks):
        first = 1 + block * (layers + 1)
        for layer in range(layers):
            yield f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{first + layer}.0"
            yield f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{first + layer}.1"
        yield f"down_blocks.{block}.downsamplers.0", f"input_blocks.{first + layers}.0"
        first = block * (layers + 1)
        for layer in range(layers + 1):
            yield f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{first + layer}.0"
            yield f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{first + layer}.1"
        attends = any(key.startswith(f"up_blocks.{block}.attentions.") for key in tensors)
        yield f"up_blocks.{block}.upsamplers.0", f"output_blocks.{first + layers}.{2 if attends else 1}"


def _vae(tensors: Tensors) -> Tensors:
    """Its upper blocks are counted from the other end, and attention is made of convolutions."""
    blocks = 1 + max(int(found[1]) for key in tensors if (found := re.match(r"decoder\.up_blocks\.(\d+)", key)))
    turned = {
        re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", key): value
        for key, value in tensors.items()
    }
    renamed = _renamed(turned, _VAE)
    return {
        key: value[:, :, None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", key) else value
        for key, value in renamed.items()
    }
