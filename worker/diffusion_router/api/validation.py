"""What a request means to a worker, once it has been checked. Pure, and shared by HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_router.admission import Terms
from diffusion_router.api import adapters
from diffusion_router.api.fields import InvalidField, parse_scalar
from diffusion_router.api.kinds import (
    DEFAULT_FPS,
    JOB,
    KINDS,
    MAX_SEED,
    PARAMETERS,
    PASSED_ON,
    PICTURED,
    Kind,
    request_fields,
)
from diffusion_router.api.limits import Limits
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import number, word

# Of CreateJobRequest, besides its priority.
_TERMS: Final = frozenset(["timeout_seconds", "accept_late", "target_seconds", "user"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A valid request: its first job's parameters (but for files and an output format left open), and how many jobs."""

    parameters: stage_pb2.JobParameters
    n: int
    model: str | None
    as_url: bool
    terms: Terms

    def jobs(self) -> list[stage_pb2.JobParameters]:
        """One job a picture; seeds rise by one, if there is a seed."""
        jobs = []
        for index in range(self.n):
            parameters = stage_pb2.JobParameters()
            parameters.CopyFrom(self.parameters)
            if parameters.HasField("seed"):
                parameters.seed += index
            jobs.append(parameters)
        return jobs


class RequestReader:
    """Reads requests under the given limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._fields = {kind: request_fields(kind, limits) for kind in KINDS}

    def read(self, kind: Kind, values: Mapping[str, object]) -> Request:
        """`values` as parsed from JSON; null is absent. Raises InvalidField."""
        checked: dict[str, Any] = {}
        for name, value in values.items():
            self._known(kind, name)
            if value is not None:
                checked[name] = self._fields[kind][name].check(name, value)
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
            values[name] = self._fields[kind][name].parse(name, text)
        return values | ({"model_args": arguments} if arguments else {})

    def read_message(self, request: job_pb2.CreateJobRequest) -> Request:
        """The same rules for what came as protobuf. Raises InvalidField."""
        values = {field.name: value for field, value in request.ListFields() if field.name in _TERMS}
        if request.priority:
            values["priority"] = word(job_pb2.Priority, request.priority)
        return self.read(JOB, values | self._parameters(request.parameters))

    def _parameters(self, message: stage_pb2.JobParameters) -> dict[str, object]:
        values: dict[str, object] = {
            field.name: value for field, value in message.ListFields() if field.name in PARAMETERS
        }
        if "width" in values or "height" in values:
            values["size"] = f"{values.pop('width', 0)}x{values.pop('height', 0)}"
        if message.adapters:
            values["adapters"] = [_plain(adapter) for adapter in message.adapters]
        for one in PICTURED:
            if getattr(message, one.field):
                text = f"Field {one.field!r} can't be set: its pictures are sent to POST /v1/jobs"
                raise InvalidField(one.field, text)
        if message.inputs:
            raise InvalidField("inputs", "Field 'inputs' can't be set: files are sent to POST /v1/jobs")
        if message.extra:
            arguments = {name: scalar_value(scalar) for name, scalar in message.extra.items()}
            values |= {name: arguments.pop(name) for name in PASSED_ON if name in arguments}
            values["model_args"] = arguments
        return values

    def schema(self, kind: Kind) -> dict[str, Any]:
        """The JSON schema of such a request without files."""
        return {
            "type": "object",
            "properties": {name: field.schema() for name, field in sorted(self._fields[kind].items())},
            "required": ["prompt"],
            "additionalProperties": False,
        }

    def _known(self, kind: Kind, name: str) -> None:
        if name in self._fields[kind]:
            return
        shown = name[:100]
        if name in kind.files:
            raise InvalidField(shown, f"Field {shown!r} must be a file, in a multipart form", code="invalid_type")
        if any(name in fields for fields in self._fields.values()):
            raise InvalidField(shown, f"Field {shown!r} is not for this kind of request", code="unknown_field")
        text = f"Unknown field {shown!r}. Arguments that only this family of models has go into 'model_args'"
        raise InvalidField(shown, text, code="unknown_field")

    def _request(self, checked: Mapping[str, Any]) -> Request:
        """checked: by their fields, so of the fields' types."""
        parameters = stage_pb2.JobParameters()
        for name, value in checked.items():
            if name in PARAMETERS:
                setattr(parameters, name, value)
            elif name in PASSED_ON:
                _set_scalar(parameters.extra[name], value)
        for name, value in checked.get("model_args", {}).items():
            _set_scalar(parameters.extra[name], value)
        parameters.adapters.extend(_adapters(checked))
        for one in PICTURED:
            getattr(parameters, one.field).extend(checked.get(one.field, ()))
        if (size := checked.get("size")) is not None:
            parameters.width, parameters.height = size
        if "seconds" in checked:
            self._set_length(parameters, checked["seconds"])
        n = checked.get("n", 1)
        if parameters.seed + n - 1 > MAX_SEED:
            raise InvalidField("seed", f"Field 'seed' must leave room for {n} seeds up to {MAX_SEED}")
        return Request(
            parameters=parameters,
            n=n,
            model=checked.get("model"),
            as_url=checked.get("response_format") == "url",
            terms=Terms(
                timeout=checked.get("timeout_seconds"),
                accept_late=checked.get("accept_late", False),
                target=checked.get("target_seconds", 0.0),
                priority=number(job_pb2.Priority, checked.get("priority", "standard")),
                tenant=checked.get("user", ""),
            ),
        )

    def _set_length(self, parameters: stage_pb2.JobParameters, seconds: float) -> None:
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


def _adapters(checked: Mapping[str, Any]) -> list[stage_pb2.Adapter]:
    first, *others = [name for name in adapters.FIELDS if name in checked] or [""]
    for other in others:
        raise InvalidField(other, f"Fields {first!r} and {other!r} are the same: give one of the two")
    return checked[first] if first else []


def _plain(adapter: stage_pb2.Adapter) -> dict[str, object]:
    return {"name": adapter.name, "scale": adapter.scale if adapter.HasField("scale") else None}


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
