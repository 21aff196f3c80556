"""What the zoo knows of one tiny model: how to make it, and a request that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Components = dict[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline folder that the zoo can make.

    `pipeline` is the diffusers class, `recipe` the function that makes its components ("module.function" of this
    package), `config` the pipeline's own constructor arguments that are not components.
    """

    name: str
    pipeline: str
    recipe: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One way to use a checkpoint: fields of a request, by the names of `Parameters`.

    `way` is how the model is expected to be cut ("modular" or "replay"), `output` what comes out ("image" or
    "video"), `images` the sizes (width, height) of the pictures that the request carries, by the input's name: of one,
    or of several in order; `videos` the sizes of its videos (width, height, frames).
    """

    name: str
    checkpoint: Checkpoint
    way: str
    output: str
    request: Mapping[str, Any]
    images: Mapping[str, Size | tuple[Size, ...]] = field(default_factory=dict)
    videos: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many frames come out: 1 for a picture."""
        led = max((frames for _, _, frames in self.videos.values()), default=1)
        return int(self.request.get("num_frames", led))
