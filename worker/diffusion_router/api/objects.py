"""What the API answers with: OpenAI's objects, and our own job. They are also the response schemas of its document."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from pydantic import BaseModel, create_model

from diffusion_router.api.errors import job_error
from diffusion_router.api.kinds import PARAMETERS, VIDEO_FORMAT
from diffusion_router.api.validation import scalar_value
from diffusion_router.store import ENDED
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import PriorityName, word

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
StageName = Literal["encode", "denoise", "decode"]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody


class ImageDatum(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageDatum]
    output_format: str
    jobs: list[str]


class ObjectError(BaseModel):
    code: str
    message: str


class VideoObject(BaseModel):
    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    model: str
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    seed: int
    error: ObjectError | None


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "diffusion-operator"
    revision: str
    digest: str
    output: str
    schedulers: list[str]
    """Names of those that requests may give in the place of its own."""
    control_nets: list[str]
    """What requests may name in `controls`."""
    ip_adapters: list[str]
    """What requests may name in the field of this name."""


class AdapterObject(BaseModel):
    """An adapter, which requests may give as their model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "diffusion-operator"
    parent: str
    """The model that it is for."""
    output: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject | AdapterObject]


class ParkedObject(BaseModel):
    step: int
    steps: int


class StageObject(BaseModel):
    stage: StageName
    pod_name: str
    attempt: int
    queue_seconds: float
    wait_seconds: float
    transfer_seconds: float
    transfer_bytes: int
    compute_seconds: float
    publish_seconds: float
    steps: int
    shared: bool
    """Another job's task did it for this one too; the times are that task's."""
    parked: ParkedObject | None
    """It ended at a step, to be gone on with by the next task of the stage."""
    lost_steps: int
    """It was lost with its worker, or failed: steps that it is known to have made, and that are made again."""


class ArtifactObject(BaseModel):
    key: str
    url: str
    media_type: str
    size: int
    width: int
    height: int
    num_frames: int


_SHOWN: Final = [
    field
    for field in stage_pb2.JobParameters.DESCRIPTOR.fields
    if field.name in PARAMETERS - {"width", "height", "seed"}
]
_TYPES: Final[dict[int, Any]] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
    FieldDescriptor.CPPTYPE_FLOAT: float,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
}


def _as_json(field: FieldDescriptor) -> Any:
    kind = _TYPES[field.cpp_type]
    return (kind | None if field.has_presence else kind, ...)


_Shown: Any = create_model("_Shown", **{field.name: _as_json(field) for field in _SHOWN})


class ShownAdapter(BaseModel):
    name: str
    scale: float | None


class ShownControl(BaseModel):
    name: str
    scale: float | None
    start: float | None
    end: float | None
    mode: int | None


_Named = TypeVar("_Named", ShownAdapter, ShownControl)


class ParametersObject(_Shown):
    """What a job was asked for, in the protobuf's fields."""

    seed: int
    size: str
    adapters: list[ShownAdapter]
    controls: list[ShownControl]
    ip_adapters: list[ShownAdapter]
    model_args: dict[str, bool | int | float | str | None]


class JobObject(BaseModel):
    id: str
    object: Literal["job"] = "job"
    status: Status
    model: str
    created_at: float
    completed_at: float | None
    expires_at: float | None
    target_at: float | None
    """When it should have ended, if its request named a target."""
    priority: PriorityName
    stage: StageName | None
    step: int
    steps: int
    progress: int
    parameters: ParametersObject
    stages: list[StageObject]
    artifacts: list[ArtifactObject]
    error: ObjectError | None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    ids: list[str]


class JobDeleted(BaseModel):
    id: str
    object: Literal["job.deleted"] = "job.deleted"
    deleted: bool = True


def is_video(job: job_pb2.Job) -> bool:
    return job.parameters.output_format == VIDEO_FORMAT


def has_ended(job: job_pb2.Job) -> bool:
    return job.status in ENDED


def progress(job: job_pb2.Job) -> int:
    """0 to 100, by the steps that were really made. 100 is for a job that has completed."""
    if job.status == job_pb2.JOB_STATUS_COMPLETED:
        return 100
    if job.stage == stage_pb2.STAGE_DECODE:
        return 99
    return min(99, 100 * job.step // job.steps) if job.stage == stage_pb2.STAGE_DENOISE and job.steps else 0


def video_object(job: job_pb2.Job, retain_seconds: float) -> VideoObject:
    """A cancelled video is a failed one there: OpenAI's clients wait for ever on a status that they don't know."""
    status = word(job_pb2.JobStatus, job.status)
    return VideoObject(
        id=job.id,
        status="failed" if status == "cancelled" else status,
        model=job.model,
        progress=progress(job),
        created_at=int(job.created_at),
        completed_at=int(job.completed_at) if job.completed_at else None,
        expires_at=int(job.completed_at + retain_seconds) if job.completed_at else None,
        prompt=job.parameters.prompt,
        seconds=_seconds(job),
        size=_size(job),
        seed=job.parameters.seed,
        error=_error(job),
    )


def job_object(job: job_pb2.Job, base_url: str, retain_seconds: float) -> JobObject:
    """base_url: of this API as the client reaches it, with a slash at its end."""
    return JobObject(
        id=job.id,
        status=word(job_pb2.JobStatus, job.status),
        model=job.model,
        created_at=job.created_at,
        completed_at=job.completed_at or None,
        expires_at=job.completed_at + retain_seconds if job.completed_at else None,
        target_at=job.target_at or None,
        priority=word(job_pb2.Priority, job.priority or job_pb2.PRIORITY_STANDARD),
        stage=word(stage_pb2.Stage, job.stage) if job.stage else None,
        step=job.step,
        steps=job.steps,
        progress=progress(job),
        parameters=_parameters_object(job.parameters),
        stages=[_stage_object(report) for report in job.stages],
        artifacts=[
            ArtifactObject(
                key=artifact.key,
                url=file_url(base_url, artifact.key),
                media_type=artifact.media_type,
                size=artifact.size,
                width=artifact.width,
                height=artifact.height,
                num_frames=artifact.num_frames,
            )
            for artifact in job.artifacts
        ],
        error=_error(job),
    )


def file_url(base_url: str, key: str) -> str:
    return f"{base_url}v1/files/{key}"


def _parameters_object(given: stage_pb2.JobParameters) -> ParametersObject:
    present = {field.name: value for field, value in given.ListFields()}
    return ParametersObject(
        seed=given.seed,
        size=f"{given.width}x{given.height}" if given.width else "auto",
        adapters=[_shown(ShownAdapter, one) for one in given.adapters],
        controls=[_shown(ShownControl, one) for one in given.controls],
        ip_adapters=[_shown(ShownAdapter, one) for one in given.ip_adapters],
        model_args={name: scalar_value(scalar) for name, scalar in given.extra.items()},
        **{field.name: present.get(field.name, None if field.has_presence else "") for field in _SHOWN},
    )


def _shown(model: type[_Named], message: Message) -> _Named:
    given = {field.name: value for field, value in message.ListFields()}
    return model(**{name: given.get(name) for name in model.model_fields})


def _stage_object(report: job_pb2.StageReport) -> StageObject:
    timings = report.timings
    return StageObject(
        stage=word(stage_pb2.Stage, report.stage),
        pod_name=report.pod_name,
        attempt=report.attempt,
        queue_seconds=report.queue_seconds,
        wait_seconds=timings.wait_seconds,
        transfer_seconds=timings.transfer_seconds,
        transfer_bytes=timings.transfer_bytes,
        compute_seconds=timings.compute_seconds,
        publish_seconds=timings.publish_seconds,
        steps=timings.steps,
        shared=report.shared,
        parked=ParkedObject(step=report.parked.step, steps=report.parked.steps) if report.HasField("parked") else None,
        lost_steps=report.lost_steps,
    )


def _error(job: job_pb2.Job) -> ObjectError | None:
    if job.status not in (job_pb2.JOB_STATUS_FAILED, job_pb2.JOB_STATUS_CANCELLED):
        return None
    error = job_error(job)
    return ObjectError(code=error.code, message=error.message)


def _size(job: job_pb2.Job) -> str:
    if job.artifacts:
        return f"{job.artifacts[0].width}x{job.artifacts[0].height}"
    return f"{job.parameters.width}x{job.parameters.height}" if job.parameters.width else "auto"


def _seconds(job: job_pb2.Job) -> str:
    """Known once both frames and rate are: from the request, or the frames from the finished file."""
    frames = job.artifacts[0].num_frames if job.artifacts else job.parameters.num_frames
    return f"{frames / job.parameters.fps:g}" if frames and job.parameters.fps else "auto"
