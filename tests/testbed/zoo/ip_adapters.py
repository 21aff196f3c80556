"""IP-Adapters for a checkpoint, with random weights: "look" and "style", "elsewhere" with an image encoder of its own,
and for UNets "plus", of the kind that looks at patches of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed import cache
from testbed.zoo.cache import ensure, folder
from testbed.zoo.family import Checkpoint

NAMES = ("look", "style", "elsewhere")
PLUS = "plus"
OWN_SCALE = 0.7
"""Of "style", where a request gives none."""
ENCODER, OTHER_ENCODER = "image_encoder", "other_encoder"
_LOCK_SECONDS = 240
_HIDDEN, _EMBEDDING = 32, 16
_TOKENS = 4

Shown = tuple[str, float | None]
"""What a request says of one: its name, and how much it counts."""


def ip_adapter_files(checkpoint: Checkpoint) -> Any:
    """All of them, as a model is given them."""
    from diffusion_worker.model import IPAdapterFiles

    place = ensure_ip_adapters(checkpoint)
    return [
        IPAdapterFiles(
            name,
            place / f"{name}.safetensors",
            place / (OTHER_ENCODER if name == "elsewhere" else ENCODER),
            OWN_SCALE if name == "style" else 1.0,
        )
        for name in _names(checkpoint)
    ]


def ensure_ip_adapters(checkpoint: Checkpoint) -> Path:
    """The folder of all of them, made if it is not there yet."""
    place = folder() / f"{checkpoint.name}-ip-adapters"
    return cache.made_once(place, lambda draft: _make(checkpoint, draft), seconds=_LOCK_SECONDS)


def show(pipeline: Any, checkpoint: Checkpoint, shown: Sequence[Shown], pictures: Sequence[Any]) -> dict[str, Any]:
    """Has diffusers load them into its own pipeline for good. Returns what to call it with."""
    place = ensure_ip_adapters(checkpoint)
    encoder = OTHER_ENCODER if shown[0][0] == "elsewhere" else ENCODER
    files = [f"{name}.safetensors" for name, _ in shown]
    load_into(pipeline, place, files, place / encoder)
    own = {"style": OWN_SCALE}
    scales = [own.get(name, 1.0) if scale is None else scale for name, scale in shown]
    pipeline.set_ip_adapter_scale(scales[0] if len(scales) == 1 else scales)
    arguments = {"ip_adapter_image": list(pictures)}
    if type(pipeline).__name__ == "FluxControlNetPipeline" and len(pictures) > 1:
        # Which it makes for one alone.
        arguments["negative_ip_adapter_image"] = [pictures[0].point(lambda _: 0)] * len(pictures)
    return arguments


def load_into(pipeline: Any, place: Path, files: Sequence[str], encoder: Path) -> None:
    """Has diffusers load these files of a folder into its own pipeline for good, to be shown pictures by `encoder`."""
    from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin
    from transformers import SiglipImageProcessor, SiglipVisionModel

    if isinstance(pipeline, IPAdapterMixin):
        options: dict[str, Any] = {"image_encoder_folder": str(encoder.relative_to(place))}
    elif isinstance(pipeline, FluxIPAdapterMixin):
        # Its loader's own default is half precision, whatever the pipeline's.
        options = {
            "image_encoder_pretrained_model_name_or_path": str(encoder),
            "image_encoder_dtype": pipeline.dtype,
        }
    else:
        # As its page says, for its loader looks for them in the working directory.
        made = SiglipVisionModel.from_pretrained(encoder, dtype=pipeline.dtype)
        side = made.config.image_size
        pipeline.register_modules(
            image_encoder=made, feature_extractor=SiglipImageProcessor(size={"height": side, "width": side})
        )
        options = {}
    names: Any = list(files) if len(files) > 1 else files[0]
    pipeline.load_ip_adapter(str(place), subfolder="", weight_name=names, **options)
    network = pipeline.unet if isinstance(pipeline, IPAdapterMixin) else pipeline.transformer
    for name, weight in network.named_parameters():
        if name.startswith(("encoder_hid_proj.", "image_proj.")) or ".processor." in name:
            # Kernels round by where in memory weights begin, and diffusers leaves these where they lie in the file.
            weight.data = weight.data.clone()


def _names(checkpoint: Checkpoint) -> Sequence[str]:
    return NAMES if checkpoint.pipeline in ("FluxPipeline", "StableDiffusion3Pipeline") else (*NAMES, PLUS)


def write(network: Any, path: Path, names: Sequence[str]) -> Path:
    """Files of these names for a network, and both image encoders, in the folder `path`."""
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        for seed, name in enumerate((ENCODER, OTHER_ENCODER)):
            if type(network).__name__ == "SD3Transformer2DModel":
                write_siglip(path / name, seed)
            else:
                write_encoder(path / name, seed)
        for seed, name in enumerate(names):
            torch.manual_seed(seed)
            save_file(_tensors(network, patches=name == PLUS), path / f"{name}.safetensors")
    return path


def write_encoder(path: Path, seed: int = 0, **changes: Any) -> Path:
    """One that looks at pictures. `changes` of its config."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": _HIDDEN, "projection_dim": _EMBEDDING, "image_size": 30, "patch_size": 10}
    sizes |= {"intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPVisionModelWithProjection(CLIPVisionConfig(**{**sizes, **changes})).save_pretrained(path)
    return path


def write_siglip(path: Path, seed: int = 0) -> Path:
    """One of SigLIP's that looks at pictures."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": _HIDDEN, "intermediate_size": 37, "image_size": 30, "patch_size": 10}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = SiglipVisionConfig(**sizes, num_hidden_layers=2, num_attention_heads=4)
        SiglipVisionModel(config).save_pretrained(path)
    return path


def _make(checkpoint: Checkpoint, path: Path) -> None:
    import diffusers

    pipeline = getattr(diffusers, checkpoint.pipeline).from_pretrained(ensure(checkpoint))
    write(getattr(pipeline, "unet", None) or pipeline.transformer, path, _names(checkpoint))


def _tensors(network: Any, *, patches: bool) -> dict[str, Any]:
    """A file's tensors, by the names of those who trained the first."""
    if type(network).__name__ == "SD3Transformer2DModel":
        return _of_sd3(network)
    if hasattr(network.config, "cross_attention_dim"):
        width = network.config.cross_attention_dim
        layers = [
            (2 * number + 1, network.get_submodule(name.removesuffix(".processor")).inner_dim)
            for number, name in enumerate(
                one for one in network.attn_processors if ".attn2." in one and "motion_modules" not in one
            )
        ]
        attention = _attention(layers, width, bias=False)
    else:
        width = network.config.joint_attention_dim
        layers = [(number, network.inner_dim) for number in range(network.config.num_layers)]
        attention = _attention(layers, width, bias=True)
    projection = _of_patches(width) if patches else _of_embedding(width)
    return {f"image_proj.{name}": one for name, one in projection.items()} | attention


def _attention(layers: Sequence[tuple[int, int]], width: int, *, bias: bool) -> dict[str, Any]:
    import torch

    made = {}
    for number, size in layers:
        for part in ("to_k_ip", "to_v_ip"):
            made[f"ip_adapter.{number}.{part}.weight"] = torch.randn(size, width) / width**0.5
            if bias:
                made[f"ip_adapter.{number}.{part}.bias"] = torch.randn(size) / 10
    return made


def _of_embedding(width: int) -> dict[str, Any]:
    import torch

    return {
        "proj.weight": torch.randn(_TOKENS * width, _EMBEDDING) / _EMBEDDING**0.5,
        "proj.bias": torch.randn(_TOKENS * width) / 10,
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }


def _of_patches(width: int) -> dict[str, Any]:
    import torch

    inner = 64
    made = {
        "latents": torch.randn(1, _TOKENS, inner),
        "proj_in.weight": torch.randn(inner, _HIDDEN) / _HIDDEN**0.5,
        "proj_in.bias": torch.zeros(inner),
        "proj_out.weight": torch.randn(width, inner) / inner**0.5,
        "proj_out.bias": torch.zeros(width),
        "norm_out.weight": torch.ones(width),
        "norm_out.bias": torch.zeros(width),
    }
    for layer in range(4):
        norms = ("0.norm1", "0.norm2", "1.0")
        made |= {f"layers.{layer}.{name}.weight": torch.ones(inner) for name in norms}
        made |= {f"layers.{layer}.{name}.bias": torch.zeros(inner) for name in norms}
        sizes = {"0.to_q": (inner, inner), "0.to_kv": (2 * inner, inner), "0.to_out": (inner, inner)}
        sizes |= {"1.1": (4 * inner, inner), "1.3": (inner, 4 * inner)}
        for name, size in sizes.items():
            made[f"layers.{layer}.{name}.weight"] = torch.randn(size) / size[1] ** 0.5
    return made


def _of_sd3(network: Any) -> dict[str, Any]:
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
    from diffusers.models.embeddings import IPAdapterTimeImageProjection

    inner, head = 64, network.config.attention_head_dim
    width = head * network.config.num_attention_heads
    projection = IPAdapterTimeImageProjection(_HIDDEN, width, inner, heads=1, num_queries=_TOKENS, timestep_in_dim=32)
    made = {f"image_proj.{name}": one for name, one in projection.state_dict().items()}
    for number, _ in enumerate(network.attn_processors):
        attention = SD3IPAdapterJointAttnProcessor2_0(width, width, head, timesteps_emb_dim=inner)
        made |= {f"ip_adapter.{number}.{name}": one for name, one in attention.state_dict().items()}
    return made
