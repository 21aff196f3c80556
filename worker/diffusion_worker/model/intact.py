"""Whether a model is what its files say: every tensor of its own in them, none left over, and all values finite.

Libraries fill what a file lacks with random values, which each process draws anew, and leave out what they have no
place for, such as the scales of a quantisation. Both look like a model that works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from diffusion_worker.model.failures import first_of
from diffusion_worker.model.types import ModelError, UnsupportedModel

# Of normalisations: counts that only training reads. Published weights may lack them.
_UNREAD: Final = ("num_batches_tracked",)


def check_keys(component: torch.nn.Module, info: Mapping[str, Any], where: Path, files: Sequence[str]) -> None:
    """Raises UnsupportedModel unless the component's weights hold all tensors that it has, and no others.

    `info` is what `from_pretrained` says with `output_loading_info`: it knows tied weights, and which keys the class
    ignores. `files` are those that were loaded from the folder `where`.
    """
    name, held_by = type(component).__name__, f"{where}: {first_of(files)}"
    if mismatched := [f"{key} ({list(there)}, not {list(due)})" for key, there, due in info["mismatched_keys"]]:
        raise UnsupportedModel(
            f"{held_by}: other shapes than by the config of {name}: {first_of(mismatched)}: config and weights are of "
            "two models; take both from the same one"
        )
    if missing := [key for key in info["missing_keys"] if not key.endswith(_UNREAD)]:
        raise UnsupportedModel(
            f"{held_by}: {name} lacks {first_of(missing)}, which would be random values: get the file again, or the "
            "weights that belong to this config"
        )
    computed = [key for key, _ in component.named_buffers() if key not in component.state_dict()]
    if unknown := [key for key in info["unexpected_keys"] if not key.endswith((*computed, *_UNREAD))]:
        raise UnsupportedModel(
            f"{held_by}: {name} has no place for {first_of(unknown)}, which would be left out: these are weights of "
            "another class, or in a form that diffusers can't load (such as scaled fp8 of ComfyUI)"
        )


def check_weights(component: torch.nn.Module, where: Path) -> None:
    """Raises UnsupportedModel if a weight is not a finite number."""
    ends = {name: _ends(weight.detach()) for name, weight in component.named_parameters() if weight.numel()}
    if ends and not bool(torch.stack(list(ends.values())).isfinite().all()):
        wrong = [name for name, end in ends.items() if not end.isfinite()]
        raise UnsupportedModel(
            f"{where}: NaN or infinite values in {first_of(wrong)} of {type(component).__name__}: get the weights "
            "again, or set a model.dtype that can hold them"
        )


def check_made(values: object, what: str) -> None:
    """Raises ModelError if one of the tensors in `values`, which a stage made, is not finite."""
    wrong = [path for path, tensor in _tensors("", values) if tensor.numel() and not _ends(tensor).isfinite()]
    if wrong:
        where = f" in {first_of(wrong)}" if any(wrong) else ""
        raise ModelError(
            f"{what}: NaN or infinite values{where}: the model's numbers overflow, as some models' do in float16; set "
            "model.dtype bfloat16 or float32"
        )


@contextmanager
def watched(decoders: Iterable[object]) -> Iterator[None]:
    """Meanwhile what these networks make raises ModelError if it is not finite.

    Pipelines clip pixels to what a file holds, so that later nobody can tell an infinite one from a white one.
    """

    def check(network: torch.nn.Module, _inputs: Any, made: Any) -> None:
        check_made(made, f"pixels of {type(network).__name__}")

    hooks = [part.register_forward_hook(check) for decoder in decoders for part in _parts(decoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _parts(decoder: object) -> Iterable[torch.nn.Module]:
    return decoder.children() if isinstance(decoder, torch.nn.Module) else ()


def _ends(tensor: torch.Tensor) -> torch.Tensor:
    """Of one element: finite if all of the tensor's are. One pass, and no copy where the type can be compared."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point():
        return torch.zeros((), device=tensor.device)
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.bfloat16)
    low, high = torch.aminmax(tensor)
    return (high.float() - high.float()) + (low.float() - low.float())


def _tensors(path: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield path, torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _tensors(f"{path}.{name}".lstrip("."), entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _tensors(f"{path}.{index}".lstrip("."), entry)
