"""What is asked of a zoo model: a family's request, in one precision on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.zoo.catalogue import FAMILIES
from testbed.zoo.control_nets import Led
from testbed.zoo.family import Family
from testbed.zoo.ip_adapters import Shown


@dataclass(frozen=True)
class Case:
    """A family in one precision on one device, with fields of the request changed, and how often each input picture is
    turned. adapters: that it is computed with, by a model that has some; None: by one that has none. controls, of
    ControlNets, shown, of IP-Adapters, and scheduler: likewise; an empty scheduler: the model's own."""

    family: str
    dtype: str = "float32"
    device: str = "cpu"
    changes: tuple[tuple[str, Any], ...] = ()
    picture: int = 0
    without_shells: bool = False
    adapters: tuple[tuple[str, float | None], ...] | None = None
    scheduler: str | None = None
    controls: tuple[Led, ...] | None = None
    shown: tuple[Shown, ...] | None = None
    tiled: bool = False
    """Whether the VAE works in tiles."""


@dataclass(frozen=True)
class Stay:
    """A request's stay among others in a denoiser: what is denoised, from what encoding made of it, and what is done to
    it. Times are forwards since the beginning."""

    case: Case
    encoded: bytes
    exact: bool = False
    joins: int = 0
    held: tuple[int, int] | None = None
    cancelled: int | None = None


def parameters_of(case: Case) -> Any:
    """The request."""
    from diffusion_worker.model import Control, IPAdapter, Parameters, Wanted

    family = FAMILIES[case.family]
    images = inputs_of(family, case.picture)
    output_format = "png" if family.output == "image" else "mp4"
    fields: Mapping[str, Any] = {**family.request, **dict(case.changes)}
    wanted = [Wanted(*one) for one in case.adapters or ()]
    led = zip(case.controls or (), control_pictures(case), strict=True)
    seen = zip(case.shown or (), shown_pictures(case), strict=True)
    return Parameters(
        **fields,
        images=images,
        adapters=wanted,
        controls=[Control(**one._asdict(), image=picture) for one, picture in led],
        ip_adapters=[IPAdapter(name=name, scale=scale, image=picture) for (name, scale), picture in seen],
        scheduler=case.scheduler or None,
        output_format=output_format,
    )


def control_pictures(case: Case) -> list[Any]:
    """Those that the case's ControlNets lead by, of the size of what is made."""
    first = 100 + case.picture
    return [_picture(FAMILIES[case.family].size, first + place) for place in range(len(case.controls or ()))]


def shown_pictures(case: Case) -> list[Any]:
    """Those that the case's IP-Adapters show: of sizes of their own."""
    return [
        _picture((40 + case.picture, 30 + place), 200 + case.picture + place) for place in range(len(case.shown or ()))
    ]


def inputs_of(family: Family, number: int) -> dict[str, Any]:
    """The request's pictures and videos, of which no two are the same."""
    made: dict[str, Any] = {}
    for name, size in family.images.items():
        if isinstance(size[0], tuple):
            made[name] = [_picture(one, number + place) for place, one in enumerate(size)]
        else:
            made[name] = _picture(size, number)
    for name, (width, height, frames) in family.videos.items():
        made[name] = [_picture((width, height), number + place) for place in range(frames)]
    return made


def _picture(size: tuple[int, int], number: int) -> Any:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)
