"""Calls of a network as data, and several of them as one, by the position of the batch and not by names of arguments.

A call's batch is the leading size of the first argument of `forward`: of a tensor its first axis, of a list its length.
Where that first argument is a list of samples, so may others and the output be; elsewhere a list is several things with
a batch each (a ControlNet's residuals), however long it is. Then an argument that

- is a tensor with the batch as its first axis, or a list of samples, is joined along it;
- is a tensor of one element (a timestep) becomes one element a sample;
- is any other tensor (positions, a table) is shared, and must be equal in all calls;
- is anything else must be equal.

Sequences under a mask of their own (prompts of different lengths) are padded to the longest. That a network treats the
samples of its batch apart can't be read off it: `forwards.py` tries it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from diffusion_worker.model.adapters import Chosen
    from diffusion_worker.model.ip_adapters import Shown

_PLAIN: Final = (str, bool, int, float, type(None), torch.dtype, torch.device)


class Unmergeable(Exception):
    """These calls can't be made as one."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a network. `arguments` by the names of `forward`'s parameters, of which `main` is the first."""

    network: torch.nn.Module
    arguments: Mapping[str, Any]
    main: str
    adapters: Chosen | None = None
    """None: the network never has any."""
    shown: Shown | None = None
    """By IP-Adapters; None: this request has none."""

    @property
    def batch(self) -> int:
        """Samples."""
        main = self.arguments[self.main]
        return len(main) if isinstance(main, list | tuple) else main.shape[0]

    @property
    def lists(self) -> bool:
        """Whether its samples come in lists."""
        return isinstance(self.arguments[self.main], list | tuple)

    @property
    def tokens(self) -> int:
        """What the first argument holds, in positions: of `[batch, length, channels]` or `[batch, channels, …]`."""
        main = self.arguments[self.main]
        return sum(map(_positions, main)) if isinstance(main, list | tuple) else main.shape[0] * _positions(main[0])

    @property
    def shape(self) -> str:
        """In words: the network, and one sample of its first argument."""
        main = self.arguments[self.main]
        sample = main[0].shape if isinstance(main, list | tuple) else main.shape[1:]
        return f"{type(self.network).__name__} {'x'.join(map(str, sample))}"

    @cached_property
    def key(self) -> Hashable:
        """Equal for calls that may be made as one."""
        padded = _padded(self)
        outlines = {
            name: ("padded", value.ndim, value.shape[2:], value.dtype)
            if name in padded
            else _outline(value, self.batch, lists=self.lists)
            for name, value in self.arguments.items()
        }
        return (
            id(self.network),
            self.adapters,
            self.shown,
            tuple(sorted(outlines.items(), key=lambda entry: entry[0])),
        )

    def run(self) -> Any:
        """What the network makes of it."""
        if self.adapters is not None:
            self.adapters.activate(self.network)
        if self.shown is None:
            return self.network(**self.arguments)
        with self.shown.on(self.network):
            return self.network(**self.arguments)


def bind(
    network: torch.nn.Module,
    names: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    adapters: Chosen | None = None,
    shown: Shown | None = None,
) -> Call:
    """The call `network(*args, **kwargs)`, whose `forward` has positional parameters of these names.

    Raises TypeError, as that call would.
    """
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(arguments) != len(args) + len(kwargs):
        raise TypeError(f"{type(network).__name__} takes {', '.join(names)}, each once")
    return Call(network, arguments, names[0], adapters, shown)


def merge(calls: Sequence[Call]) -> Call:
    """One call for all of these, of equal keys. Raises Unmergeable."""
    calls = _pad(calls)
    sizes = [call.batch for call in calls]
    first = calls[0]
    arguments = {
        name: _join([call.arguments[name] for call in calls], sizes, lists=first.lists) for name in first.arguments
    }
    return replace(first, arguments=arguments)


def split(output: Any, calls: Sequence[Call]) -> list[Any]:
    """Each call's share of what their merged call made."""
    sizes = [call.batch for call in calls]
    total = sum(sizes)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    lists = calls[0].lists
    return [_part(output, start, size, total, lists=lists) for start, size in zip(starts, sizes, strict=True)]


def _positions(sample: torch.Tensor) -> int:
    """Of one sample: `[length, channels]`, or `[channels, …]`."""
    channels = sample.shape[-1] if sample.ndim <= 2 else sample.shape[0]
    return sample.numel() // max(1, channels)


def _outline(value: Any, batch: int, *, lists: bool) -> Hashable:
    if isinstance(value, torch.Tensor):
        if _is_scalar(value):
            return ("one a sample", value.dtype)
        if value.shape[0] == batch:
            # A timestep may come as one element for all samples, or as one for each.
            return ("one a sample", value.dtype) if value.ndim == 1 else ("joined", value.shape[1:], value.dtype)
        return ("shared", value.shape, value.dtype)
    if lists and _is_list_of_samples(value, batch):
        # Of any length each: a network that takes a list knows what to do with that.
        return ("list", value[0].ndim, value[0].dtype)
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(_outline(member, batch, lists=lists) for member in value))
    if isinstance(value, dict):
        return ("dict", *((name, _outline(value[name], batch, lists=lists)) for name in sorted(value)))
    # What is neither plain nor a tensor can't be compared: such calls are made alone.
    return ("plain", type(value), value) if isinstance(value, _PLAIN) else ("unique", id(value), object())


def _is_scalar(value: torch.Tensor) -> bool:
    return value.ndim == 0 or (value.ndim == 1 and value.shape[0] == 1)


def _is_list_of_samples(value: Any, batch: int) -> bool:
    return isinstance(value, list) and len(value) == batch and bool(value) and isinstance(value[0], torch.Tensor)


def _join(values: Sequence[Any], sizes: Sequence[int], *, lists: bool) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return _join_tensors(values, sizes)
    if lists and _is_list_of_samples(first, sizes[0]):
        return [sample for value in values for sample in value]
    if isinstance(first, dict):
        return {name: _join([value[name] for value in values], sizes, lists=lists) for name in first}
    if isinstance(first, list | tuple):
        members = range(len(first))
        return type(first)(_join([value[index] for value in values], sizes, lists=lists) for index in members)
    return first


def _join_tensors(values: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    first = values[0]
    if all(_is_scalar(value) or value.shape == (size,) for value, size in zip(values, sizes, strict=True)):
        each = [value.reshape(-1).expand(size) for value, size in zip(values, sizes, strict=True)]
        return torch.cat(each)
    if all(value.shape[0] == size for value, size in zip(values, sizes, strict=True)):
        return torch.cat(list(values))
    # By identity first: to compare tensors on a GPU, one must wait for it.
    if all(value is first or torch.equal(value, first) for value in values):
        return first
    raise Unmergeable("a tensor that all samples share differs")


def _part(output: Any, start: int, size: int, total: int, *, lists: bool) -> Any:
    if isinstance(output, torch.Tensor):
        return output[start : start + size] if output.ndim and output.shape[0] == total else output
    if lists and isinstance(output, list) and len(output) == total:
        return output[start : start + size]
    if hasattr(output, "to_tuple"):
        return type(output)(**{name: _part(value, start, size, total, lists=lists) for name, value in output.items()})
    if isinstance(output, dict):
        return {name: _part(value, start, size, total, lists=lists) for name, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(_part(value, start, size, total, lists=lists) for value in output)
    return output


def _padded(call: Call) -> frozenset[str]:
    """Arguments that may be longer: a mask `[batch, length]` and the sequences `[batch, length, …]` that it is for."""
    found: set[str] = set()
    tensors = {name: value for name, value in call.arguments.items() if isinstance(value, torch.Tensor)}
    for name, mask in tensors.items():
        if "mask" not in name or mask.ndim != 2 or mask.shape[0] != call.batch:
            continue
        masked = {
            other
            for other, value in tensors.items()
            if other not in (name, call.main) and value.ndim == 3 and value.shape[:2] == mask.shape
        }
        if masked:
            found |= masked | {name}
    return frozenset(found)


def _pad(calls: Sequence[Call]) -> Sequence[Call]:
    names = _padded(calls[0])
    longest = {name: max(call.arguments[name].shape[1] for call in calls) for name in names}
    return [
        replace(
            call,
            arguments={
                name: _lengthen(value, longest[name]) if name in names else value
                for name, value in call.arguments.items()
            },
        )
        for call in calls
    ]


def _lengthen(value: torch.Tensor, length: int) -> torch.Tensor:
    missing = length - value.shape[1]
    if not missing:
        return value
    return torch.cat([value, value.new_zeros((value.shape[0], missing, *value.shape[2:]))], 1)
