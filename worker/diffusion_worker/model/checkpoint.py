"""What a denoising has become since its loop began, as payload values, and back into another that stands at its start.

What is carried is the difference: attributes of the loop's state, of schedulers and of guiders that are not as they
were when the loop began, since whoever goes on begins the loop too. Nothing is pickled: values are tensors and plain
types, and objects are filled, never made, but for those in `_MADE`.

A tensor's memory layout is part of the state. It may choose another kernel, so the order of axes is carried along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from diffusion_worker.model.records import MARK, pack, unpack
from diffusion_worker.model.types import ModelError

_MADE: Final[Mapping[str, Any]] = {"MomentumBuffer": lambda: MomentumBuffer(0.0)}
"""Objects that come into being during a loop."""
_PLAIN: Final = (bool, int, float, str, type(None), torch.dtype, torch.device)
_FILLED: Final = (SchedulerMixin, BaseGuidance, MomentumBuffer)
_CONSTANT: Final = ("_internal_dict", "config")


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor as it was. Not a copy: the counter tells whether it was written to since."""

    tensor: torch.Tensor
    version: int


class Beginning:
    """Objects by name as they are now, for `difference` later. Copies no tensor."""

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._states = {name: _hold_all(one) for name, one in objects.items()}

    def difference(self, objects: Mapping[str, Any], *, keep_new: frozenset[str]) -> dict[str, object]:
        """What became of them, by object and attribute.

        keep_new: objects of which attributes are carried that were not there in the beginning; of others they are
        what a step makes and the next one makes anew. Raises UnsupportedModel for a change that can't be carried.
        """
        found: dict[str, object] = {}
        for name, one in objects.items():
            changed = _changes(name, one, self._states[name], new=name in keep_new)
            if changed:
                found[name] = changed
        return found


def restore(objects: Mapping[str, Any], difference: Mapping[str, Any], device: torch.device) -> None:
    """Makes objects that are at the beginning what they had become. Raises ModelError for what fits none of them."""
    for name, changes in difference.items():
        if name not in objects:
            raise ModelError(f"a checkpoint holds the state of {name}, which this denoising does not have")
        _fill(objects[name], changes, device)


def _attributes(one: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(one).items() if name not in _CONSTANT and not callable(value)}


def _hold_all(one: Any) -> dict[str, Any]:
    return {name: _hold(value) for name, value in _attributes(one).items()}


def _hold(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _Held(value, value._version)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        return type(value)([_hold(member) for member in value])
    if isinstance(value, dict):
        return {key: _hold(member) for key, member in value.items()}
    if isinstance(value, _FILLED):
        return _hold_all(value)
    return value


def _is_same(now: Any, held: Any) -> bool:
    if isinstance(now, torch.Tensor):
        if not isinstance(held, _Held):
            return False
        return now is held.tensor and now._version == held.version
    if isinstance(now, np.ndarray):
        return isinstance(held, np.ndarray) and now.shape == held.shape and bool(np.array_equal(now, held))
    if isinstance(now, list | tuple):
        return type(now) is type(held) and len(now) == len(held) and all(map(_is_same, now, held))
    if isinstance(now, dict):
        return (
            isinstance(held, dict) and now.keys() == held.keys() and all(_is_same(now[key], held[key]) for key in now)
        )
    if isinstance(now, (*_PLAIN, np.generic)):
        return type(now) is type(held) and bool(now == held or (now != now and held != held))
    return now is held


def _changes(what: str, one: Any, held: Mapping[str, Any], *, new: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in _attributes(one).items():
        if name not in held:
            if new:
                found[name] = _pack(f"{what}.{name}", value)
        elif isinstance(value, _FILLED) and isinstance(held[name], dict):
            if changed := _changes(f"{what}.{name}", value, held[name], new=True):
                found[name] = {MARK: "state", "of": type(value).__name__, "state": changed}
        elif not _is_same(value, held[name]):
            found[name] = _pack(f"{what}.{name}", value)
    return found


def _pack(what: str, value: Any) -> object:
    if isinstance(value, _FILLED):
        state = {name: _pack(f"{what}.{name}", member) for name, member in _attributes(value).items()}
        return {MARK: "state", "of": type(value).__name__, "state": state}
    return pack(value, what, layout=True)


def _fill(one: Any, changes: Mapping[str, Any], device: torch.device) -> None:
    for name, value in changes.items():
        old = getattr(one, name, None)
        if isinstance(value, dict) and value.get(MARK) == "state":
            if not isinstance(old, _FILLED):
                made = _MADE.get(value["of"])
                if made is None:
                    raise ModelError(f"a checkpoint holds a {value['of']} for {name}, where there is none")
                old = made()
                setattr(one, name, old)
            _fill(old, value["state"], device)
        else:
            setattr(one, name, unpack(value, old.device if isinstance(old, torch.Tensor) else device))
