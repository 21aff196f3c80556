"""A request bound to a modular pipeline: which blocks run, with which arguments.

Each role binds for itself, from the request that comes with its task. So an encoder's output is conditioning and
nothing else, and serves every request that encodes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PIL.Image import Image

from diffusion_worker.model import arguments
from diffusion_worker.model.cut import Cut, Pieces
from diffusion_worker.model.families import FPS_INPUTS, SEVERAL_PICTURES
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.guidance import is_guider
from diffusion_worker.model.inputs import as_taken
from diffusion_worker.model.schedulers import is_run_by
from diffusion_worker.model.types import Parameters, Pictures
from diffusionpipeline.words import STAGES, Stage

GENERATOR: Final = "generator"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a request is for this pipeline."""

    triggers: Mapping[str, object]
    pieces: Pieces
    inputs: Mapping[str, object]
    """Scalars and texts, by the blocks' own names."""
    guidance_scale: float | None
    """None: the guider's own."""
    fps: int
    output_format: str
    scheduler: str
    """Empty: the folder's own."""


def bind(parameters: Parameters, cut: Cut, folder: ModelFolder, *, output: str, size_multiple: int) -> Bound:
    """Of input images only the names matter here. Raises InvalidRequest, which names the field."""
    arguments.check_format(parameters.output_format, output)
    images = pictures(parameters, cut, folder)
    arguments.check_images(images, cut)
    fields = arguments.given_fields(parameters)
    arguments.check_size(fields, size_multiple)
    defaults = {**cut.family.defaults, **folder.defaults}
    triggers = cut.triggers({**defaults, **fields, **dict.fromkeys(images, True)})
    pieces = cut.pieces(triggers)
    guided = any(is_guider(spec) for stage in STAGES for spec in pieces.components(stage).values())
    plainly = cut.image_inputs and not images
    name = f"{cut.name}, without an input image," if plainly else cut.name
    inputs, scale = arguments.bind(fields, defaults, pieces, name=name, guided=guided)
    arguments.check_strength(inputs, pieces)
    return Bound(
        triggers=triggers,
        pieces=pieces,
        inputs=inputs,
        guidance_scale=scale,
        fps=parameters.fps or folder.default_fps or _declared_fps(pieces) or cut.family.fps,
        output_format=parameters.output_format,
        scheduler=parameters.scheduler or "",
    )


def pictures(parameters: Parameters, cut: Cut, folder: ModelFolder) -> dict[str, Pictures]:
    """The request's pictures as the blocks take them. Raises InvalidRequest, which names the input."""
    several = SEVERAL_PICTURES.get(folder.pipeline_class, frozenset())
    taken = as_taken(parameters.images, takes=cut.image_inputs, several=several, pipeline=cut.name)
    if not cut.family.layered:
        return taken
    return {name: one.convert("RGBA") if isinstance(one, Image) else one for name, one in taken.items()}


def encoding_reads(pieces: Pieces, cut: Cut) -> frozenset[str]:
    """The fields of a request that its encoding depends on: requests that agree in these have the same conditioning."""
    declared = {parameter.name for parameter in pieces.inputs_of(Stage.ENCODE) if parameter.name}
    reads = {"fps" if name in FPS_INPUTS else name for name in declared - {GENERATOR}}
    if GENERATOR in declared:
        reads.add("seed")
    guided = any(is_guider(spec) for spec in pieces.components(Stage.ENCODE).values())
    if guided and not cut.family.encodes_negative:
        # Whether a negative prompt is encoded depends on whether there will be guidance.
        reads.add(arguments.GUIDANCE)
    if is_run_by(pieces.components(Stage.ENCODE)):
        reads.add("scheduler")
    return frozenset(reads)


def _declared_fps(pieces: Pieces) -> int | None:
    """The frames per second that the blocks condition on unless told."""
    inputs = pieces.inputs
    defaults = [inputs[name].default for name in FPS_INPUTS if name in inputs]
    return round(defaults[0]) if defaults and defaults[0] else None
