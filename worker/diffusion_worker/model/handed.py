"""What one stage of a model cut along its blocks hands to the next, in the plain types that a payload carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import torch

from diffusion_worker.model.binding import Bound


class _Handed(TypedDict):
    pipeline: str
    diffusers: str
    """Its version."""
    inputs: dict[str, object]
    tags: Mapping[str, list[str]]
    """Names of inputs by the kind that blocks ask for."""


class Conditioning(_Handed, total=False):
    """What encoding makes of what it reads."""

    generator: torch.Generator
    """Where encoding drew from it."""


class Made(_Handed):
    """What denoising hands to decoding: all of it, since nobody shares it."""

    generator: torch.Generator
    triggers: Mapping[str, object]
    guidance_scale: float | None
    fps: int
    output_format: str
    scheduler: str
    """The name that the request gave; empty: the folder's own."""


def begin(bound: Bound, inputs: dict[str, object], tags: Mapping[str, list[str]], generator: torch.Generator) -> Made:
    """Of a request that no stage has run."""
    return {
        "pipeline": "",
        "diffusers": "",
        "inputs": inputs,
        "tags": tags,
        "generator": generator,
        "triggers": bound.triggers,
        "guidance_scale": bound.guidance_scale,
        "fps": bound.fps,
        "output_format": bound.output_format,
        "scheduler": bound.scheduler,
    }


def is_same(value: object, given: object) -> bool:
    """Whether a block passed on what it was given."""
    return isinstance(value, bool | int | float | str) and type(value) is type(given) and value == given


def plain(value: object) -> object:
    """The value in the plain types that a payload carries."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value
