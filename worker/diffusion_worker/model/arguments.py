"""A request's fields as a pipeline's arguments; what the pipeline does not take is refused by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin

from diffusion_worker.model.families import ALIASES, FPS_INPUTS, LARGEST, RESERVED_INPUTS, UNTYPED_SCALARS
from diffusion_worker.model.types import InvalidRequest, Parameters, Scalar

if TYPE_CHECKING:
    from diffusion_worker.model.cut import Cut, Pieces

FIELDS: Final = tuple(
    field.name
    for field in dataclasses.fields(Parameters)
    if field.name
    not in ("seed", "images", "extra", "adapters", "controls", "ip_adapters", "scheduler", "exact", "output_format")
)
FORMATS: Final = {"image": ("png", "webp", "jpeg"), "video": ("mp4",)}
SCALARS: Final[frozenset[type]] = frozenset({int, float, str, bool})
MAX_DIMENSION: Final = 16_384
GUIDANCE: Final = "guidance_scale"


def given_fields(parameters: Parameters) -> dict[str, object]:
    """The fields that a request carries, flat, `extra` by its own names and aliases resolved.

    Raises InvalidRequest for a field that is given twice or is no finite number, and for controls
    and IP-Adapters: who has some takes them away first.
    """
    if parameters.controls:
        raise InvalidRequest("controls: this pipeline has no ControlNets: name them in its model.controlNets")
    if parameters.ip_adapters:
        raise InvalidRequest("ip_adapters: this pipeline has no IP-Adapters: name them in its model.ipAdapters")
    fields: dict[str, object] = {name: value for name in FIELDS if (value := getattr(parameters, name)) is not None}
    for name, value in parameters.extra.items():
        target = ALIASES.get(name, name)
        if target in fields or target in parameters.images or target == "seed":
            raise InvalidRequest(f"{name}: given twice; the request has {target} already")
        fields[target] = value
    for name, value in fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{name}: must be a finite number, not {value}")
        if isinstance(value, int) and value > LARGEST.get(name, value):
            raise InvalidRequest(f"{name}: must be at most {LARGEST[name]}, not {value}")
    for name in ("width", "height", "num_frames", "num_inference_steps", "fps"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequest(f"{name}: must be a whole number of at least 1, not {value!r}")
    for name in ("width", "height"):
        size = fields.get(name)
        if isinstance(size, int) and size > MAX_DIMENSION:
            raise InvalidRequest(f"{name}: must be at most {MAX_DIMENSION}, not {size}")
    strength = fields.get("strength")
    if isinstance(strength, int | float) and not 0 <= strength <= 1:
        raise InvalidRequest(f"strength: must be from 0 to 1, not {strength}")
    return fields


def check_format(output_format: str, output: str) -> None:
    """Raises InvalidRequest unless a model that makes `output` (image or video) writes this format."""
    if output_format not in FORMATS[output]:
        thing = "an image" if output == "image" else "a video"
        formats = " or ".join(FORMATS[output])
        raise InvalidRequest(f"output_format: this model makes {thing}, written as {formats}, not {output_format!r}")


def check_size(fields: Mapping[str, object], multiple: int) -> None:
    """Raises InvalidRequest unless width and height are multiples of `multiple` pixels.

    diffusers rounds other sizes down without a word.
    """
    for name in ("width", "height"):
        value = fields.get(name)
        if isinstance(value, int) and value % multiple:
            below = max(multiple, value // multiple * multiple)
            raise InvalidRequest(f"{name}: must be a multiple of {multiple} for this model; {value} is not, {below} is")


def check_images(images: Collection[str], cut: Cut) -> None:
    """Raises InvalidRequest unless these inputs, of those that the cut takes, choose a workflow that is served."""
    given = set(images)
    wanted = [set(triggers) & cut.image_inputs for triggers in cut.workflows.values()]
    chosen = [names for names in wanted if names <= given]
    if chosen and set().union(*chosen) == given:
        return
    missing = sorted(min([names for names in wanted if given <= names] or wanted, key=len) - given)
    if not missing:
        raise InvalidRequest(f"{', '.join(sorted(given))}: {cut.name} does not take these together")
    raise InvalidRequest(f"{', '.join(missing)}: needed by {cut.name}, but not in the request")


def bind(
    fields: Mapping[str, object], defaults: Mapping[str, Scalar], pieces: Pieces, *, name: str, guided: bool
) -> tuple[dict[str, object], float | None]:
    """The pipeline's arguments, and the scale for its guider (None: the guider's own, or it has none).

    `defaults` fill in what the request leaves out, as far as this pipeline declares it. `guided` says whether the
    pipeline has a guider. Raises InvalidRequest for a field that `name`, the pipeline, does not declare.
    """
    declared = pieces.inputs
    arguments: dict[str, object] = {}
    scale: float | None = None
    for field, value in {**defaults, **fields}.items():
        if field in RESERVED_INPUTS:
            raise InvalidRequest(f"{field}: is set by the server and can't be given")
        if field == "fps":
            arguments |= {target: value for target in FPS_INPUTS if target in declared}
        elif field in declared:
            if field not in FIELDS:
                _check_scalar(field, value, declared[field])
            arguments[field] = value
        elif field == GUIDANCE and guided:
            scale = _number(field, value)
        elif field in fields:
            raise InvalidRequest(f"{field}: {name} does not take it{_hint(declared)}")
    return arguments, scale


def check_strength(bound: Mapping[str, object], pieces: Pieces) -> None:
    """Raises InvalidRequest where `strength` leaves not one step to do: the blocks would return nothing to decode."""
    declared = pieces.inputs
    if "strength" not in declared or "num_inference_steps" not in declared:
        return
    strength = _number("strength", bound.get("strength", declared["strength"].default))
    steps = _number("num_inference_steps", bound.get("num_inference_steps", declared["num_inference_steps"].default))
    if strength * steps < 1:
        raise InvalidRequest(f"strength: {strength:g} of {steps:g} steps leaves none to do; raise either")


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{field}: must be a number, not {value!r}")
    return float(value)


def _check_scalar(field: str, value: object, parameter: Any) -> None:
    """Refuses what the pipeline does not take as a scalar of this type, so that it fails here and not in the middle."""
    types = _scalar_types(parameter)
    if not types:
        raise InvalidRequest(f"{field}: is no scalar of this pipeline and can't be given")
    fits = type(value) in types or (float in types and type(value) is int)
    if not fits:
        names = " or ".join(sorted(one.__name__ for one in types))
        raise InvalidRequest(f"{field}: must be of type {names}, not {value!r}")


def _scalar_types(parameter: Any) -> frozenset[type]:
    hint = parameter.type_hint
    if hint is None:
        default = UNTYPED_SCALARS.get(parameter.name, type(parameter.default))
        return frozenset({default}) & SCALARS
    options = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    return SCALARS.intersection(option for option in options if isinstance(option, type))


def _hint(declared: Mapping[str, Any]) -> str:
    takes = sorted(
        name
        for name, parameter in declared.items()
        if name not in RESERVED_INPUTS and (name in FIELDS or _scalar_types(parameter))
    )
    return f"; it takes {', '.join(takes)}" if takes else ""
