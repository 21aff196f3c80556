"""What a request may say, and what it means to a worker. Pure, and shared by HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from diffusion_router.api.fields import (
    Arguments,
    Choice,
    Field,
    Integer,
    InvalidField,
    Never,
    Number,
    Seconds,
    Size,
    Text,
    parse_scalar,
)
from diffusion_router.api.limits import Limits
from diffusionpipeline.v1 import stage_pb2

# A generator's seed, and what fits into every client's 64-bit integer.
MAX_SEED: Final = 2**63 - 1
# Of a video whose length is given in seconds alone.
DEFAULT_FPS: Final = 16
IMAGE_FORMATS: Final = ("png", "webp", "jpeg")
VIDEO_FORMAT: Final = "mp4"

# Arguments of the pipeline that have a field of their own, or that the worker sets.
_RESERVED: Final = frozenset(
    [
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "strength",
        "num_frames",
        "fps",
        "image",
        "mask_image",
        "last_image",
        "control_image",
        "generator",
        "latents",
        "output_type",
        "return_dict",
    ]
)
# Flat fields that go to the model as they are.
_PASSED_ON: Final = ("max_sequence_length", "true_cfg_scale")

_COMMON: Final = [
    "prompt",
    "negative_prompt",
    "model",
    "size",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "model_args",
    "timeout_seconds",
    "user",
    "safety_identifier",
]
_IMAGE_ONLY: Final = ["n", "output_format", "quality", "background", "moderation"]
_VIDEO_ONLY: Final = ["num_frames", "fps", "seconds"]
_IMAGE_FILES: Final = {"image": "image", "image[]": "image", "mask": "mask_image", "control_image": "control_image"}
_VIDEO_FILES: Final = {"input_reference": "image", "last_image": "last_image"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of request: its fields, and its files by form field, each with the pipeline's argument that takes it.

    output: image or video; None: whichever is asked for, or the served model makes.
    """

    output: str | None
    fields: frozenset[str]
    output_formats: tuple[str, ...] = IMAGE_FORMATS
    files: Mapping[str, str] = field(default_factory=dict)
    needs_image: bool = False


GENERATION: Final = Kind(
    output="image", fields=frozenset([*_COMMON, *_IMAGE_ONLY, *_PASSED_ON, "response_format", "stream"])
)
EDIT: Final = Kind(output="image", fields=GENERATION.fields | {"strength"}, files=_IMAGE_FILES, needs_image=True)
VIDEO: Final = Kind(
    output="video", fields=frozenset([*_COMMON, *_VIDEO_ONLY, *_PASSED_ON, "strength"]), files=_VIDEO_FILES
)
# All of them, asynchronously: whether a picture or a video comes out is up to the served model.
JOB: Final = Kind(
    output=None,
    output_formats=(*IMAGE_FORMATS, VIDEO_FORMAT),
    fields=(EDIT.fields | VIDEO.fields) - {"response_format", "stream"},
    files=_IMAGE_FILES | _VIDEO_FILES,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A valid request: its first job's parameters (but for files and an output format left open), and how many jobs."""

    parameters: stage_pb2.GenerationParameters
    n: int
    model: str | None
    as_url: bool
    timeout: float | None

    def jobs(self) -> list[stage_pb2.GenerationParameters]:
        """One job a picture; seeds rise by one, if there is a seed."""
        jobs = []
        for index in range(self.n):
            parameters = stage_pb2.GenerationParameters()
            parameters.CopyFrom(self.parameters)
            if parameters.HasField("seed"):
                parameters.seed += index
            jobs.append(parameters)
        return jobs


class RequestReader:
    """Reads requests under the given limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._fields: dict[str, Field] = {
            "prompt": Text("What to make", limits.max_prompt_chars, min_length=1),
            "negative_prompt": Text("What to keep out", limits.max_prompt_chars),
            "model": Text("The served model; absent: whichever is served", 256, min_length=1),
            "n": Integer("How many; each has a seed one higher", 1, limits.max_images_per_request),
            "size": Size(limits.max_pixels),
            "response_format": Choice("b64_json by default", ("b64_json", "url")),
            "num_inference_steps": Integer("Denoising steps", 1, limits.max_steps),
            "guidance_scale": Number("How closely to follow the prompt", 0, 1000),
            "seed": Integer("The same seed makes the same bytes; drawn if absent", 0, MAX_SEED),
            "strength": Number("How much of the input image is redrawn", 0, 1),
            "num_frames": Integer("Frames of the video", 1, limits.max_frames),
            "fps": Integer("Frames a second", 1, 120),
            "seconds": Seconds(f"Length of the video, at `fps` or {DEFAULT_FPS} frames a second", limits.max_frames),
            "max_sequence_length": Integer("Tokens of the prompt that count", 1, 65_536),
            "true_cfg_scale": Number("Guidance by the negative prompt, of models with two kinds", 0, 1000),
            "model_args": Arguments("Arguments that only this family of models has", _RESERVED | set(_PASSED_ON)),
            "timeout_seconds": Seconds("The deadline, from now", limits.max_seconds),
            "user": Text("Accepted for OpenAI's clients; not kept", 1024),
            "safety_identifier": Text("Accepted for OpenAI's clients; not kept", 1024),
            "quality": Choice("Set `num_inference_steps` instead", ("auto", "standard")),
            "background": Choice("Always the model's own", ("auto",)),
            "moderation": Choice("There is none", ("auto",)),
            "stream": Never("follow the job's events instead"),
        }

    def read(self, kind: Kind, values: Mapping[str, object]) -> Request:
        """`values` as parsed from JSON; null is absent. Raises InvalidField."""
        checked: dict[str, object] = {}
        for name, value in values.items():
            self._known(kind, name)
            if value is not None:
                checked[name] = self._field(kind, name).check(name, value)
        if "prompt" not in checked:
            raise InvalidField("prompt", "Field 'prompt' is required", code="missing_field")
        return self._request(checked)

    def parse_form(self, kind: Kind, entries: Iterable[tuple[str, str]]) -> dict[str, object]:
        """A form's texts as values for `read`; `model_args[x]` is an entry of `model_args`. Raises InvalidField."""
        values: dict[str, object] = {}
        arguments: dict[str, object] = {}
        for name, text in entries:
            if name.startswith("model_args[") and name.endswith("]"):
                arguments[name[len("model_args[") : -1]] = parse_scalar(text)
                continue
            self._known(kind, name)
            if name in values:
                raise InvalidField(name, f"Field {name!r} is given twice")
            values[name] = self._field(kind, name).parse(name, text)
        return values | ({"model_args": arguments} if arguments else {})

    def read_parameters(self, message: stage_pb2.GenerationParameters) -> Request:
        """The same rules for parameters that came as protobuf. Raises InvalidField."""
        values: dict[str, object] = {
            name.name: value for name, value in message.ListFields() if name.name in JOB.fields | {"output_format"}
        }
        if message.HasField("width") or message.HasField("height"):
            values["size"] = f"{message.width}x{message.height}"
        if message.inputs:
            raise InvalidField("inputs", "Field 'inputs' can't be set: files are sent to POST /v1/jobs")
        if message.extra:
            arguments = {name: scalar_value(scalar) for name, scalar in message.extra.items()}
            values |= {name: arguments.pop(name) for name in _PASSED_ON if name in arguments}
            values["model_args"] = arguments
        return self.read(JOB, values)

    def schema(self, kind: Kind) -> dict[str, object]:
        """The JSON schema of such a request without files."""
        return {
            "type": "object",
            "properties": {name: self._field(kind, name).schema() for name in sorted(kind.fields)},
            "required": ["prompt"],
            "additionalProperties": False,
        }

    def _field(self, kind: Kind, name: str) -> Field:
        if name == "output_format":
            return Choice("png or mp4 by default", kind.output_formats)
        return self._fields[name]

    def _known(self, kind: Kind, name: str) -> None:
        if name in kind.fields:
            return
        shown = name[:100]
        if name in kind.files:
            raise InvalidField(shown, f"Field {shown!r} must be a file, in a multipart form", code="invalid_type")
        if name in JOB.fields | GENERATION.fields:
            raise InvalidField(shown, f"Field {shown!r} is not for this kind of request", code="unknown_field")
        text = f"Unknown field {shown!r}. Arguments that only this family of models has go into 'model_args'"
        raise InvalidField(shown, text, code="unknown_field")

    def _request(self, checked: Mapping[str, object]) -> Request:
        parameters = stage_pb2.GenerationParameters()
        for name in _PLAIN:
            if name in checked:
                setattr(parameters, name, checked[name])
        if isinstance(size := checked.get("size"), tuple):
            parameters.width, parameters.height = size
        if isinstance(seconds := checked.get("seconds"), float):
            self._set_length(parameters, seconds)
        arguments = checked.get("model_args")
        for name, value in arguments.items() if isinstance(arguments, dict) else ():
            _set_scalar(parameters.extra[name], value)
        for name in _PASSED_ON:
            if name in checked:
                _set_scalar(parameters.extra[name], checked[name])
        n, model, timeout = checked.get("n", 1), checked.get("model"), checked.get("timeout_seconds")
        n = n if isinstance(n, int) else 1
        if parameters.seed + n - 1 > MAX_SEED:
            raise InvalidField("seed", f"Field 'seed' must leave room for {n} seeds up to {MAX_SEED}")
        return Request(
            parameters=parameters,
            n=n,
            model=model if isinstance(model, str) else None,
            as_url=checked.get("response_format") == "url",
            timeout=timeout if isinstance(timeout, float) else None,
        )

    def _set_length(self, parameters: stage_pb2.GenerationParameters, seconds: float) -> None:
        if parameters.HasField("num_frames"):
            raise InvalidField("seconds", "Give either 'seconds' or 'num_frames', not both")
        parameters.fps = parameters.fps or DEFAULT_FPS
        parameters.num_frames = max(1, round(seconds * parameters.fps))
        if parameters.num_frames > self._limits.max_frames:
            raise InvalidField(
                "seconds",
                f"Field 'seconds' asks for {parameters.num_frames} frames at {parameters.fps} a second; "
                f"at most {self._limits.max_frames} are allowed",
            )


_PLAIN: Final = [
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "strength",
    "num_frames",
    "fps",
    "output_format",
]


def _set_scalar(scalar: stage_pb2.Scalar, value: object) -> None:
    match value:
        case bool():
            scalar.bool_value = value
        case int():
            scalar.int_value = value
        case float():
            scalar.double_value = value
        case str():
            scalar.string_value = value


def scalar_value(scalar: stage_pb2.Scalar) -> int | float | str | bool | None:
    """None: nothing is set."""
    kind = scalar.WhichOneof("value")
    return None if kind is None else getattr(scalar, kind)
