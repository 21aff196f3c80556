"""What is known of one pipeline class: how to make a folder of it, and what to ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tried:
    """A pipeline class, and the recipes ("module.function" of the zoo) whose components it takes by its own names.

    A recipe that takes an argument gets what those before it made. `config` are constructor arguments that are no
    components, `defaults` the folder's own of a request. `pictures` and `lists` (name -> how many) are what the
    class is called with where diffusers runs it alone, and `call` what no request can carry;
    `tiled`: its autoencoder must be told to work in tiles.
    """

    pipeline: str
    recipes: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    lists: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    tiled: bool = False
    call: Mapping[str, Any] = field(default_factory=dict)
