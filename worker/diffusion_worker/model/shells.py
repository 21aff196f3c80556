"""Weightless stand-ins for the components that a role does not own.

A pipeline asks components for more than their weights: the VAE's scale factor gives the size of the latents, the
transformer's config its channels, a text encoder casts to the transformer's dtype. With such a component missing,
diffusers assumes a default and makes a picture of the wrong size without an error. A shell is the same class with the
same config on the meta device: it costs no memory, and any attempt to compute with it fails loudly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from diffusion_worker.model.folder import ModelFolder

MAX_BUFFER_ELEMENTS: Final = 65_536
"""Persistent buffers up to this size are read for real: normalisation statistics (`latents_mean`, `bn.running_var`)
are used outside of the component's own forward."""


@cache
def _shell_class(component_class: type) -> type:
    """A subclass that answers `device` and `dtype` as the real component would, and never moves."""

    def _device(self: Any) -> torch.device:
        return self.__dict__.get("_shell_device", torch.device("meta"))

    def _dtype(self: Any) -> torch.dtype:
        return self.__dict__.get("_shell_dtype", torch.float32)

    def _stay(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self

    namespace = {
        "device": property(_device),
        "dtype": property(_dtype),
        "to": _stay,
        "__module__": component_class.__module__,
        "__qualname__": component_class.__qualname__,
    }
    return type(component_class.__name__, (component_class,), namespace)


def is_shell(component: object) -> bool:
    """Whether `component` was made by `make_shell`."""
    return "_shell_dtype" in getattr(component, "__dict__", {})


def make_shell(folder: ModelFolder, name: str, *, dtype: torch.dtype, device: str | torch.device) -> Any:
    """A stand-in for a component with weights, by its config and, if they are there, its small buffers.

    It says that it has `dtype` and is on `device`, so that a pipeline casts and places its tensors as if it were whole.
    """
    shell = _weightless(folder, name)
    torch.nn.Module.to(shell, dtype=dtype)
    _read_small_buffers(shell, folder.weight_paths(name), dtype=dtype, device=torch.device(device))
    shell.__dict__["_shell_device"] = torch.device(device)
    shell.__dict__["_shell_dtype"] = dtype
    return shell.eval().requires_grad_(False)


def needs_weights(folder: ModelFolder, name: str) -> bool:
    """Whether a component's shell is no good without its weight files: an autoencoder with statistics in buffers.

    Pipelines scale latents by them outside of the autoencoder, in any role. Other networks' small buffers are their own
    forwards' (tables of positions), which a shell never runs.
    """
    if not callable(getattr(folder.component_class(name), "decode", None)):
        return False
    shell = _weightless(folder, name)
    kept = shell.state_dict().keys()
    return any(name in kept for name in _small_buffers(shell))


def _weightless(folder: ModelFolder, name: str) -> Any:
    component_class, path = folder.component_class(name), folder.component_path(name)
    shell_class: Any = _shell_class(component_class)
    with torch.device("meta"):
        if hasattr(component_class, "load_config"):
            return shell_class.from_config(shell_class.load_config(path, local_files_only=True))
        return shell_class(shell_class.config_class.from_pretrained(path, local_files_only=True))


def _small_buffers(module: torch.nn.Module) -> set[str]:
    return {name for name, buffer in module.named_buffers() if 0 < buffer.numel() <= MAX_BUFFER_ELEMENTS}


def _read_small_buffers(
    module: torch.nn.Module, paths: Iterable[Path], *, dtype: torch.dtype, device: torch.device
) -> None:
    wanted = _small_buffers(module)
    if not wanted:
        return
    for path in paths:
        with safe_open(path, "pt") as weights:
            for name in sorted(wanted.intersection(weights.keys())):
                tensor = weights.get_tensor(name)
                owner, _, leaf = name.rpartition(".")
                buffers = module.get_submodule(owner)._buffers
                buffers[leaf] = tensor.to(device, dtype if tensor.is_floating_point() else None)
                wanted.discard(name)
