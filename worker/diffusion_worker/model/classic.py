"""A request bound to a classic pipeline: the arguments of its `__call__`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from diffusion_worker.model import arguments
from diffusion_worker.model.families import (
    AS_LONG_AS_VIDEO,
    FPS_INPUTS,
    NEEDED_CONFIG,
    NEEDED_INPUTS,
    OTHER_INPUTS,
    PICTURES,
    RESERVED_INPUTS,
    SEVERAL_PICTURES,
    UNPARKABLE_INPUTS,
)
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.inputs import as_taken, in_colour, length_of, requested_name, scaled, videos_of
from diffusion_worker.model.types import InvalidRequest, Parameters, Pictures, Scalar
from diffusionpipeline.words import VIDEO_INPUTS

OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {"num_frames": ("video_length", "frames"), "fps": FPS_INPUTS}
"""What some pipelines call a field of the request."""

DEFAULT_FPS: Final = 16


def image_inputs(pipeline_class: Any) -> list[str]:
    """Names of the arguments that are pictures or videos."""
    taken = inspect.signature(pipeline_class.__call__).parameters
    others = [own for names in OTHER_INPUTS.values() for own in names]
    return [name for name in (*PICTURES, *VIDEO_INPUTS, *others) if name in taken]


def bind_call(
    pipeline_class: Any, parameters: Parameters, defaults: Mapping[str, Scalar]
) -> tuple[dict[str, Any], int]:
    """The arguments of `__call__` that a request gives, and the frames per second of a video.

    Raises InvalidRequest for a field that the pipeline does not take.
    """
    taken = inspect.signature(pipeline_class.__call__).parameters
    fields = arguments.given_fields(parameters)
    call: dict[str, Any] = {}
    for field, value in {**defaults, **fields}.items():
        target = next((name for name in (field, *OTHER_NAMES.get(field, ())) if name in taken), None)
        if field in RESERVED_INPUTS:
            raise InvalidRequest(f"{field}: is set by the server and can't be given")
        if target is not None:
            _check_type(field, value, taken[target])
            call[target] = value
        elif field in fields and not _is_moot(field, value, parameters):
            raise InvalidRequest(f"{field}: {pipeline_class.__name__} does not take it")
    images = _images(pipeline_class, parameters)
    asked = (parameters.width, parameters.height) if parameters.width and parameters.height else None
    image = images.get("image")
    if asked and isinstance(image, Image.Image) and "height" not in taken:
        # Such a pipeline makes a picture of its input's size.
        images["image"] = image.resize(asked, Image.Resampling.LANCZOS)
    videos = videos_of(images)
    if videos and pipeline_class.__name__ in AS_LONG_AS_VIDEO:
        length = length_of(videos, parameters.num_frames)
        size = (call.get("width", taken["width"].default), call.get("height", taken["height"].default))
        images |= {name: scaled(frames[:length], size) for name, frames in videos.items()}
        call["num_frames"] = length
    fps = fields.get("fps") or defaults.get("fps") or DEFAULT_FPS
    return call | images, int(str(fps))


def _is_moot(field: str, value: object, parameters: Parameters) -> bool:
    """Whether a field means something without being an argument of the pipeline."""
    return (
        (field == "prompt" and not value)
        or field == "fps"
        or (field in ("width", "height") and bool(parameters.images))
    )


def needed_images(pipeline_class: Any) -> list[str]:
    """Those of them that a request must bring."""
    taken = inspect.signature(pipeline_class.__call__).parameters
    needed = NEEDED_INPUTS.get(pipeline_class.__name__, frozenset())
    return [
        name
        for name in image_inputs(pipeline_class)
        if name in needed or taken[name].default is inspect.Parameter.empty
    ]


def untaken_images(folder: ModelFolder) -> dict[str, str]:
    """Of the folder's own pipeline those that it can't do with, by the names that requests use, and why."""
    name = folder.pipeline_class
    found = {
        taken: f"{name} takes it only with a model that was trained for it, whose {component} has {key} in its config"
        for taken, (component, key) in NEEDED_CONFIG.get(name, {}).items()
        if folder.component_config(component).get(key) is None
    }
    kept = dict.fromkeys(
        UNPARKABLE_INPUTS.get(name, ()),
        f"{name} carries what its network makes of it in the first step through all others, and no checkpoint does: "
        "ask without it, or serve a model of another class",
    )
    return {requested_name(own): why for own, why in (found | kept).items()}


def _images(pipeline_class: Any, parameters: Parameters) -> dict[str, Pictures]:
    """The request's pictures and videos as the pipeline takes them. Raises InvalidRequest, which names the input."""
    name = pipeline_class.__name__
    several = SEVERAL_PICTURES.get(name, frozenset())
    images = as_taken(parameters.images, takes=image_inputs(pipeline_class), several=several, pipeline=name)
    missing = [requested_name(one) for one in needed_images(pipeline_class) if one not in images]
    if missing:
        raise InvalidRequest(f"{', '.join(missing)}: needed by {name}, but not in the request")
    return {own: in_colour(value) for own, value in images.items()}


def _check_type(field: str, value: object, parameter: inspect.Parameter) -> None:
    """Refuses a value of another type than the argument's default, so that it fails here and not in the middle."""
    default = parameter.default
    if isinstance(default, bool | str) and type(value) is not type(default):
        raise InvalidRequest(f"{field}: must be of type {type(default).__name__}, not {value!r}")
    if isinstance(default, int | float) and (
        isinstance(value, str) or isinstance(value, bool) != isinstance(default, bool)
    ):
        raise InvalidRequest(f"{field}: must be a number, not {value!r}")
