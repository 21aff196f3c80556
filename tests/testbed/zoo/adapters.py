"""Two LoRA adapters of a checkpoint, with random weights; "one" is for its text encoder too, where it can be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from testbed import cache
from testbed.zoo.cache import ensure, folder
from testbed.zoo.family import Checkpoint

NAMES = ("one", "two")
OWN_SCALE = 0.8
"""Of "two", where a request gives none."""
RANK = 4
# Of the layers of networks and of text encoders.
_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "v_proj")
_LOCK_SECONDS = 240


def adapter_files(checkpoint: Checkpoint) -> Any:
    """Both, as a model is given them."""
    from diffusion_worker.model import AdapterFile, AdapterFiles

    one, two = (ensure_adapter(checkpoint, name) for name in NAMES)
    return AdapterFiles([AdapterFile("one", one), AdapterFile("two", two, scale=OWN_SCALE)])


def ensure_adapter(checkpoint: Checkpoint, name: str) -> Path:
    """The folder of an adapter, made if it is not there yet."""
    place = folder() / f"{checkpoint.name}-adapter-{name}"
    return cache.made_once(place, lambda draft: _make(checkpoint, name, draft), seconds=_LOCK_SECONDS)


def put_on(pipeline: Any, checkpoint: Checkpoint, wanted: Iterable[tuple[str, float | None]]) -> None:
    """Has diffusers' own pipeline compute with these."""
    for name in NAMES:
        pipeline.load_lora_weights(ensure_adapter(checkpoint, name), adapter_name=name)
    own = {"one": 1.0, "two": OWN_SCALE}
    chosen = {name: own[name] if scale is None else scale for name, scale in wanted}
    if chosen:
        pipeline.set_adapters(list(chosen), list(chosen.values()))
    else:
        pipeline.disable_lora()


def _make(checkpoint: Checkpoint, name: str, path: Path) -> None:
    import diffusers
    import torch
    from safetensors.torch import save_file

    pipeline_class = getattr(diffusers, checkpoint.pipeline)
    pipeline = pipeline_class.from_pretrained(ensure(checkpoint))
    components = [one for one in pipeline_class._lora_loadable_modules if one in ("unet", "transformer")]
    if name == "one":
        components += [one for one in pipeline_class._lora_loadable_modules if one == "text_encoder"]
    generator = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
    tensors: dict[str, torch.Tensor] = {}
    for component in components:
        for layer, module in getattr(pipeline, component).named_modules():
            if isinstance(module, torch.nn.Linear) and layer.endswith(_LAYERS):
                down = torch.randn((RANK, module.in_features), generator=generator) / module.in_features**0.5
                up = torch.randn((module.out_features, RANK), generator=generator) / RANK**0.5
                tensors |= {f"{component}.{layer}.lora_A.weight": down, f"{component}.{layer}.lora_B.weight": up}
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})
