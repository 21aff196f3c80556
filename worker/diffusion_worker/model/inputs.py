"""A request's pictures and videos as a pipeline takes them: under its names, as many as it takes, of one size.

Roles after the encoder know only the names: what they are told of the values is None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from PIL import Image

from diffusion_worker.model.families import OTHER_INPUTS
from diffusion_worker.model.types import InvalidRequest, Pictures
from diffusionpipeline.words import VIDEO_INPUTS

_REQUESTED: Final = {own: name for name, others in OTHER_INPUTS.items() for own in others}


def own_name(name: str, takes: Collection[str]) -> str | None:
    """What a pipeline that takes these inputs calls a request's input, or None if it does not take it."""
    return next((own for own in (name, *OTHER_INPUTS.get(name, ())) if own in takes), None)


def requested_name(own: str) -> str:
    """What requests call a pipeline's input."""
    return _REQUESTED.get(own, own)


def as_taken(
    images: Mapping[str, Pictures], *, takes: Collection[str], several: Collection[str], pipeline: str
) -> dict[str, Pictures]:
    """A request's inputs, by the names of a pipeline that takes `takes`, and several pictures as `several`.

    Raises InvalidRequest, which names the input.
    """
    taken: dict[str, Pictures] = {}
    for name, value in images.items():
        own = own_name(name, takes)
        if own is None:
            known = ", ".join(sorted(map(requested_name, takes))) or "no input image"
            raise InvalidRequest(f"{name}: {pipeline} takes {known}")
        if own in taken:
            raise InvalidRequest(f"{name}: {pipeline} calls it {own}, and the request has that already")
        if not isinstance(value, Sequence) or own in several or name in VIDEO_INPUTS:
            taken[own] = value
        elif len(value) == 1:
            taken[own] = value[0]
        else:
            raise InvalidRequest(f"{name}: {pipeline} takes one picture, and the request has {len(value)}")
    return taken


def videos_of(images: Mapping[str, Pictures]) -> dict[str, Sequence[Image.Image]]:
    """The frames of those inputs, by a pipeline's names, that are videos."""
    return {
        name: value
        for name, value in images.items()
        if isinstance(value, Sequence) and requested_name(name) in VIDEO_INPUTS
    }


def length_of(videos: Mapping[str, Sequence[Image.Image]], num_frames: int | None) -> int:
    """How many frames of these videos count: the first `num_frames`, or all.

    Raises InvalidRequest where they are fewer than are asked for, or not of one length.
    """
    lengths = {requested_name(name): len(frames) for name, frames in videos.items()}
    told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
    if num_frames is None and len(set(lengths.values())) > 1:
        raise InvalidRequest(f"num_frames: the videos are not of one length ({told}): say how many frames count")
    shortest = min(lengths.values())
    if num_frames is not None and num_frames > shortest:
        raise InvalidRequest(f"num_frames: {num_frames} are asked for, but {told}")
    return num_frames or shortest


def scaled(frames: Sequence[Image.Image], size: tuple[int, int]) -> list[Image.Image]:
    """The frames as pictures of `size` (width, height)."""
    return [one if one.size == size else one.resize(size, Image.Resampling.LANCZOS) for one in frames]


def in_colour(value: Pictures) -> Pictures:
    """The picture, or each of several, as RGB."""
    return [one.convert("RGB") for one in value] if isinstance(value, Sequence) else value.convert("RGB")
