"""Kinds of request, and the one table of their fields: what HTTP adds to the protobuf `JobParameters`.

A field of that message is listed there, and once more here with its bounds and the kinds of request that take it; what
reads, shows and passes on a request goes by these two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, get_args

from diffusion_router.api.adapters import AdapterList, OneAdapter
from diffusion_router.api.controls import CONTROL_LIST
from diffusion_router.api.fields import Arguments, Choice, Field, Integer, Never, Number, Seconds, Size, Switch, Text
from diffusion_router.api.ip_adapters import IP_ADAPTER_LIST
from diffusion_router.api.limits import Limits
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import VIDEO_INPUTS, PriorityName

# A generator's seed, and what fits into every client's 64-bit integer.
MAX_SEED: Final = 2**63 - 1
# Of a video whose length is given in seconds alone.
DEFAULT_FPS: Final = 16
IMAGE_FORMATS: Final = ("png", "webp", "jpeg")
VIDEO_FORMAT: Final = "mp4"
MAX_USER_CHARS: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kind:
    """A kind of request, and its files by form field, each with the pipeline's argument that takes it. Files of one
    argument are in the order of the form.

    output: image or video; None: whichever is asked for, or the served model makes.
    """

    output: str | None
    output_formats: tuple[str, ...] = IMAGE_FORMATS
    files: Mapping[str, str] = field(default_factory=dict)
    needs_image: bool = False


PICTURED: Final = (CONTROL_LIST, IP_ADAPTER_LIST)
"""Fields that are lists of named things, each with a picture."""

_IMAGE_FILES: Final = {
    "image": "image",
    "image[]": "image",
    "mask": "mask_image",
    "control_image": "control_image",
    **{one.form_file: one.field for one in PICTURED},
}
_VIDEO_FILES: Final = {
    "input_reference": "image",
    "last_image": "last_image",
    "reference_images": "reference_images",
    "reference_images[]": "reference_images",
    **{name: name for name in VIDEO_INPUTS},
}

SEVERAL: Final = frozenset(["image", "reference_images", *(one.field for one in PICTURED)])
"""Arguments for which some models take several files."""

GENERATION: Final = Kind(output="image")
EDIT: Final = Kind(output="image", files=_IMAGE_FILES, needs_image=True)
VIDEO: Final = Kind(output="video", files=_VIDEO_FILES)
# All of them, asynchronously: whether a picture or a video comes out is up to the served model.
JOB: Final = Kind(output=None, output_formats=(*IMAGE_FORMATS, VIDEO_FORMAT), files={**_IMAGE_FILES, **_VIDEO_FILES})
KINDS: Final = (GENERATION, EDIT, VIDEO, JOB)

PARAMETERS: Final = frozenset(
    parameter.name for parameter in stage_pb2.JobParameters.DESCRIPTOR.fields if parameter.message_type is None
)
"""Fields of the protobuf that hold one plain value. `size` is the width and height of requests and answers."""
PASSED_ON: Final = frozenset(["max_sequence_length", "true_cfg_scale"])
"""Flat fields that go to the model among its own arguments."""
# Arguments of the pipeline that have a field of their own, or that the worker sets.
_RESERVED: Final = (
    PARAMETERS | PASSED_ON | set(JOB.files.values()) | {"generator", "latents", "output_type", "return_dict"}
)


def request_fields(kind: Kind, limits: Limits) -> dict[str, Field]:
    """What such a request may say, apart from its files."""
    pictures, videos, redrawing = (GENERATION, EDIT, JOB), (VIDEO, JOB), (EDIT, VIDEO, JOB)
    awaited = (GENERATION, EDIT)
    table: list[tuple[str, tuple[Kind, ...], Field]] = [
        ("prompt", KINDS, Text("What to make", limits.max_prompt_chars, min_length=1)),
        ("negative_prompt", KINDS, Text("What to keep out", limits.max_prompt_chars)),
        (
            "model",
            KINDS,
            Text("The served model, or one of its adapters; absent: whichever model is served", 256, min_length=1),
        ),
        ("n", pictures, Integer("How many; each has a seed one higher", 1, limits.max_images_per_request)),
        ("size", KINDS, Size(limits.max_pixels)),
        ("output_format", pictures, Choice("png or mp4 by default", kind.output_formats)),
        ("response_format", awaited, Choice("b64_json by default", ("b64_json", "url"))),
        ("num_inference_steps", KINDS, Integer("Denoising steps", 1, limits.max_steps)),
        ("guidance_scale", KINDS, Number("How closely to follow the prompt", 0, 1000)),
        ("seed", KINDS, Integer("The same seed makes the same bytes; drawn if absent", 0, MAX_SEED)),
        ("strength", redrawing, Number("How much of the input image is redrawn", 0, 1)),
        ("num_frames", videos, Integer("Frames of the video", 1, limits.max_frames)),
        ("fps", videos, Integer("Frames a second", 1, 120)),
        (
            "seconds",
            videos,
            Seconds(f"Length of the video, at `fps` or {DEFAULT_FPS} frames a second", limits.max_frames),
        ),
        ("adapters", KINDS, AdapterList("LoRA adapters by name, with their scales")),
        ("loras", KINDS, AdapterList("The same as `adapters`")),
        ("lora", KINDS, OneAdapter("The same as `adapters`, of one")),
        ("scheduler", KINDS, Text("A scheduler that the pipeline lists, by name", 63, min_length=1)),
        *((one.field, pictures, one) for one in PICTURED),
        ("exact", KINDS, Switch("Computed by itself, where the pipeline shares forwards among requests")),
        ("max_sequence_length", KINDS, Integer("Tokens of the prompt that count", 1, 65_536)),
        ("true_cfg_scale", KINDS, Number("Guidance by the negative prompt, of models with two kinds", 0, 1000)),
        ("model_args", KINDS, Arguments("Arguments that only this family of models has", _RESERVED)),
        ("timeout_seconds", KINDS, Seconds("The deadline, from now", limits.max_seconds)),
        ("accept_late", KINDS, Switch("Accepted although it is predicted to end after its deadline")),
        (
            "target_seconds",
            KINDS,
            Seconds("In which it should end; it may take longer, up to its deadline", limits.max_seconds),
        ),
        ("priority", KINDS, Choice("Whose jobs come first; standard by default", get_args(PriorityName))),
        ("user", KINDS, Text("Whose job it is: users of one priority get the same share", MAX_USER_CHARS)),
        ("safety_identifier", KINDS, Text("Accepted for OpenAI's clients; not kept", 1024)),
        ("quality", pictures, Choice("Set `num_inference_steps` instead", ("auto", "standard"))),
        ("background", pictures, Choice("Always the model's own", ("auto",))),
        ("moderation", pictures, Choice("There is none", ("auto",))),
        ("stream", awaited, Never("follow the job's events instead")),
    ]
    return {name: field for name, kinds, field in table if kind in kinds}
