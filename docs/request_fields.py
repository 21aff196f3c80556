"""The page request-fields.md, what a request may say, from the router's own table of fields.

The table is `diffusion_router.api.kinds.request_fields`, by which the router checks every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_router.api.kinds import EDIT, GENERATION, JOB, SEVERAL, VIDEO, Kind, request_fields
from diffusion_router.settings import Settings
from diffusion_worker.work.opening import Bounds
from diffusionpipeline.words import VIDEO_INPUTS

KINDS: Final[Mapping[str, Kind]] = {"generations": GENERATION, "edits": EDIT, "videos": VIDEO, "jobs": JOB}

HEAD: Final = """\
# What a request may say

Written by `make docs` from the table in [kinds.py](../worker/diffusion_router/api/kinds.py), by which the router checks
every request; bounds that are settings of the router stand here with their defaults. Columns: `/v1/images/generations`,
`/v1/images/edits`, `/v1/videos`, `/v1/jobs`.

"""


FILES: Final = """\
Files come in a form (`multipart/form-data`). Pictures are PNG, JPEG or WebP. Several of one argument are given by
repeating the form field, and are taken in that order by models that make one result of several (Qwen-Image-Edit-Plus,
FLUX.2, Wan VACE); others take one. What a file means is up to the model: `image` is what a model for image to image
redraws, what an editing model edits, and what leads a ControlNet's folder; `mask` is white where an inpainting model
draws anew; `last_image` is the frame that a video ends with. What the served model does not take is refused, and the
answer names what it takes.

A video is an MP4 file (H.264, H.265, AV1, VP9 or MPEG-4) or a GIF, of at most {frames:,} frames, and {pixels:,} pixels
in all of them together. Folders take it whose pipeline has the argument: `video` CogVideoX, AnimateDiff and Wan VACE,
`control_video` CogVideoX Fun Control, `mask_video` Wan VACE. Wan VACE makes as many frames as its video has, or of
`num_frames` alone, the first ones; it scales its videos to `size`.

"""


def page() -> str:
    # The defaults, whatever the environment says.
    limits = Settings.model_construct().limits
    fields = {name: request_fields(kind, limits) for name, kind in KINDS.items()}
    head = f"| field | | value | {' | '.join(KINDS)} |\n| --- | --- | --- |{' --- |' * len(KINDS)}\n"
    names = list(dict.fromkeys(name for table in fields.values() for name in table))
    return HEAD + head + "".join(_row(name, fields) for name in names) + "\n## Files\n\n" + _files()


def _row(name: str, fields: Mapping[str, Mapping[str, Any]]) -> str:
    # Of the kind that may say the most: a job may be a picture or a video.
    schema = next(table[name].schema() for table in reversed(fields.values()) if name in table)
    has = " | ".join("yes" if name in table else "" for table in fields.values())
    return f"| `{name}` | {schema['description']} | {_value(schema)} | {has} |\n"


def _value(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return _value(schema["anyOf"][0])
    if "enum" in schema:
        return " or ".join(f"`{word}`".lower() for word in schema["enum"])
    bounds = [
        text.format(int(schema[key]))
        for key, text in {
            "minimum": "from {:,}",
            "exclusiveMinimum": "above {:,}",
            "maximum": "up to {:,}",
            "maxLength": "of at most {:,} characters",
            "maxProperties": "of at most {:,} scalars",
        }.items()
        if key in schema
    ]
    return " ".join([schema["type"], *bounds])


def _files() -> str:
    rows = [
        f"| `{field}` | {_holds(argument)} | `{argument}` | "
        f"{', '.join(name for name, kind in KINDS.items() if field in kind.files)} |\n"
        for field, argument in JOB.files.items()
    ]
    bounds = Bounds(pixels=0)
    told = FILES.format(frames=bounds.frames, pixels=bounds.video_pixels)
    return told + "| form field | | the pipeline's argument | kinds |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _holds(argument: str) -> str:
    if argument in VIDEO_INPUTS:
        return "an MP4 or GIF video"
    return "a picture, or several" if argument in SEVERAL else "a picture"
