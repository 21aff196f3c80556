"""What a pipeline's own methods return and take, in the payload's types and back.

A method's result may be nested: tuples, dicts, output objects with attributes. On the wire such an object is a dict
under one marker key, with plain values inside; nothing names a class to make, so nothing foreign is ever instantiated.
Of objects that compute, those that their parameters make are carried as these: a VAE's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from diffusion_worker.model.types import ModelError, UnsupportedModel

MARK: Final = "$"
_PLAIN: Final = (torch.Tensor, np.ndarray, Image.Image, torch.dtype, torch.device, str, bool, int, float, type(None))


class Replayed:
    """A stand-in for an output object: its fields as attributes, by name and by position."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getitem__(self, key: int | str) -> Any:
        return self.__dict__[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.__dict__)

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def get(self, name: str, default: Any = None) -> Any:
        """The field of this name, as transformers' outputs give it."""
        return self.__dict__.get(name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields in order, as both libraries' outputs give them."""
        return tuple(self.__dict__.values())


def pack(value: Any, what: str, generator: torch.Generator | None = None, *, layout: bool = False) -> object:
    """`value` in the payload's types, its tensors copied; the run's own `generator` becomes a mark.

    layout: the order of a tensor's axes in memory is carried too. Raises UnsupportedModel, naming `what` (where the
    value came from), for a value that can't be carried.
    """
    # Copies, because pipelines change tensors in place after a method has returned them.
    return _flatten(value, what, generator, _with_layout if layout else lambda tensor: tensor.detach().clone())


def outline(value: Any, what: str) -> object:
    """`value` as `pack` gives it, with shape and dtype in the place of each tensor."""
    return hollow(_flatten(value, what, None, lambda tensor: tensor))


def hollow(packed: object) -> object:
    """A packed value with shape and dtype in the place of each tensor."""
    if isinstance(packed, torch.Tensor):
        return {MARK: "tensor", "shape": list(packed.shape), "dtype": packed.dtype}
    if isinstance(packed, dict):
        return {name: hollow(member) for name, member in packed.items()}
    if isinstance(packed, list):
        return [hollow(member) for member in packed]
    if isinstance(packed, tuple):
        return tuple(hollow(member) for member in packed)
    return packed


def unpack(value: object, device: torch.device, generator: torch.Generator | None = None) -> Any:
    """The inverse of `pack`: fresh tensors on `device`, zeros for what `outline` left out."""

    def walk(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            # A tensor's layout may choose another kernel, so it is the same whether or not it came through a slot.
            return item.to(device).clone(memory_format=torch.contiguous_format)
        if isinstance(item, list):
            return [walk(member) for member in item]
        if isinstance(item, tuple):
            return tuple(walk(member) for member in item)
        if not isinstance(item, dict):
            return item
        match item[MARK]:
            case "dict":
                return {key: walk(member) for key, member in item["items"]}
            case "output":
                return Replayed({name: walk(member) for name, member in item["fields"].items()})
            case "axes":
                axes = item["axes"]
                return walk(item["tensor"]).permute([axes.index(axis) for axis in range(len(axes))])
            case "tensor":
                return torch.zeros(tuple(item["shape"]), dtype=item["dtype"], device=device)
            case "gaussian":
                return DiagonalGaussianDistribution(walk(item["parameters"]), item["deterministic"])
            case "generator" if generator is not None:
                return generator
            case mark:
                raise ModelError(f"a stage's input holds an unknown mark {mark!r}")

    return walk(value)


def _with_layout(tensor: torch.Tensor) -> object:
    if tensor.is_contiguous():
        return tensor.detach().clone()
    axes = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    return {MARK: "axes", "axes": axes, "tensor": tensor.detach().permute(axes).contiguous().clone()}


def _flatten(
    value: Any, what: str, generator: torch.Generator | None, tensor: Callable[[torch.Tensor], object]
) -> object:
    def walk(item: Any) -> object:
        if isinstance(item, torch.Tensor):
            return tensor(item)
        if isinstance(item, _PLAIN):
            return item
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, torch.Generator) and item is generator:
            return {MARK: "generator"}
        if isinstance(item, DiagonalGaussianDistribution):
            # Not a sample of it: who draws, and from which generator, is the pipeline's affair.
            return {MARK: "gaussian", "parameters": walk(item.parameters), "deterministic": item.deterministic}
        if isinstance(item, Mapping) and not _is_output(item):
            return {MARK: "dict", "items": [[walk(key), walk(member)] for key, member in item.items()]}
        if isinstance(item, list):
            return [walk(member) for member in item]
        if _is_output(item):
            return {MARK: "output", "fields": {name: walk(member) for name, member in _output_fields(item).items()}}
        if isinstance(item, tuple):
            return tuple(walk(member) for member in item)
        raise UnsupportedModel(f"{what} has a {type(item).__module__}.{type(item).__qualname__}, which can't be sent")

    return walk(value)


def _is_output(value: Any) -> bool:
    """Output objects of diffusers and transformers: dataclasses, most of them dicts as well; or a named tuple."""
    return (is_dataclass(value) and not isinstance(value, type)) or hasattr(value, "_fields")


def _output_fields(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value.items())
    names = [field.name for field in fields(value)] if is_dataclass(value) else value._fields
    return {name: getattr(value, name) for name in names if getattr(value, name) is not None}
