"""Weights that are quantised, as a component's config says: loaded by the method's own package, if the image has it.

Two libraries know such methods, and each its own. Where a method can't run, some of their loaders put full weights in
its place; that takes several times the memory that the resource asks for, and is refused.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from diffusion_worker.model.types import UnsupportedModel

CONFIG: Final = "quantization_config"
PACKAGES: Final[Mapping[str, str]] = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gguf": "gguf",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "modelopt": "nvidia-modelopt",
    "nunchaku_lite": "kernels",
    "quanto": "optimum-quanto",
    "sdnq": "sdnq",
    "torchao": "torchao",
}
"""What PyPI calls the package that a method needs; the others' libraries say it themselves."""


def method(config: Mapping[str, Any]) -> str:
    """By which method the component with this config is quantised; empty: it is not."""
    found = config.get(CONFIG) or {}
    if found.get("load_in_8bit") or found.get("load_in_4bit"):
        # The first configs with bitsandbytes name no method.
        return "bitsandbytes"
    return str(found.get("quant_method") or ("unknown" if found else ""))


def check_package(where: Path, config: Mapping[str, Any], library: str) -> None:
    """Raises UnsupportedModel if the component in the folder `where` is quantised and can't be loaded for that."""
    how = method(config)
    if not how:
        return
    known = _methods(library)
    if how not in known:
        raise UnsupportedModel(
            f"{where}: is quantised by {how}, which {library} {importlib.metadata.version(library)} can't load; it "
            f"loads {', '.join(sorted(known))}: take the weights in bf16, or quantised by one of these"
        )
    package = PACKAGES.get(how)
    if package is not None and not _is_there(package):
        raise UnsupportedModel(
            f"{where}: is quantised by {how}, and the worker's image lacks the package for it: build one with "
            f"`pip install {package}`, or take the weights in bf16"
        )


def check_kept(component: torch.nn.Module, where: Path, config: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel if quantised weights were loaded as full ones, unless their config says so."""
    # What libraries leave on a network whose weights they kept.
    kept = getattr(component, "hf_quantizer", None) is not None
    if method(config) and not kept and not config[CONFIG].get("dequantize"):
        raise UnsupportedModel(
            f"{where}: is quantised by {method(config)}, which does not run on this device, and would be loaded as "
            f"full weights: take a GPU that has it, or set dequantize to true in its {CONFIG}, or take the weights in "
            "bf16"
        )


def parts(weight: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a weight is made of: numbers and scales of a quantised one, which computes nothing by itself."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if not is_traceable_wrapper_subclass(weight):
        return [weight]
    return [one for name in weight.__tensor_flatten__()[0] for one in parts(getattr(weight, name))]


def _methods(library: str) -> Collection[str]:
    if library == "diffusers":
        from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    else:
        from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    return {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}


def _is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
