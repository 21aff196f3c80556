"""What a worker knows of one task, and how errors and requests translate between protobuf and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeVar

from diffusion_worker.model.types import Control, InvalidRequest, IPAdapter, Parameters, Pictures, Values, Wanted
from diffusion_worker.payload import PayloadError
from diffusion_worker.transport import ModeMismatch, PoolFull, Slot, TooLarge, TransportError
from diffusion_worker.work.outcomes import Output
from diffusion_worker.work.store import StoreRefused
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import CONTROLS, IP_ADAPTERS, Stage, number

if TYPE_CHECKING:
    import asyncio

    from PIL.Image import Image

N = TypeVar("N", stage_pb2.Control, stage_pb2.IPAdapter)

MAX_MESSAGE_CHARS: Final = 500


class State(Enum):
    """A task's life. One that has ended is forgotten, but for the output or failure that it left."""

    FETCHING = auto()
    WAITING = auto()
    RUNNING = auto()
    PAUSED = auto()
    """Begun, and waits to go on from a checkpoint that could not be published."""
    PUBLISHING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Asked:
    """A checkpoint that the router asked for."""

    id: str
    """The task whose output it is to be."""
    by: float
    """On the monotonic clock: it is to be made no later, if steps allow."""


class DeadlinePassed(Exception):
    """The job's deadline came before the work was done."""


@dataclass(eq=False, slots=True)
class Task:
    """One Execute on its way. Changed on the event loop only, but for its steps and `timings`, which compute writes."""

    id: str
    job_id: str
    stage: Stage
    execute: peer_pb2.Execute
    order: tuple[int, float, int]
    """What runs first: the stage nearest to the client, then as the router orders them, then the task that came
    first."""
    deadline: float
    """On the event loop's clock."""
    state: State = State.FETCHING
    slot: Slot | None = None
    """Where the input lies: leased by this task for a pull, or by the task of this worker that made it."""
    source: Output | None = None
    """The output of this worker that is the input."""
    files: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    ready_at: float = 0.0
    resumable: bool = False
    """It can be parked."""
    park_at: float | None = None
    """When the router asked for that: ends at the next step, with a checkpoint."""
    asked: Asked | None = None
    """A checkpoint that is to be made while it goes on. Compute takes it."""
    checkpoint: Values | None = None
    """It goes on from there, instead of from its input."""
    stop: tuple[int, str] | None = None
    """Failure kind and message: ends at the next boundary."""
    interrupt: Callable[[], None] | None = None
    """Brings that boundary about: set while it denoises."""
    step: int = 0
    steps: int = 0
    step_at: float = 0.0
    step_seconds: float = 0.0
    """Of the last one."""
    progress_due: bool = False
    progress_at: float = 0.0
    work: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    timings: stage_pb2.StageTimings = field(default_factory=stage_pb2.StageTimings)

    @property
    def started(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED, State.PUBLISHING)

    @property
    def copies(self) -> bool:
        """Nothing is computed: its input is its output."""
        return self.execute.copy

    @property
    def alone(self) -> bool:
        """Nothing is computed beside it."""
        return self.execute.alone

    @property
    def shape(self) -> str:
        """Encodes of one shape, and decodes, take about the same time."""
        p = self.execute.parameters
        size = f"{p.width}x{p.height}x{p.num_frames}" if p.width or p.height or p.num_frames else "the default size"
        return f"{size}, {len(p.inputs)} input files" if p.inputs else size

    def held(self) -> peer_pb2.HeldTask:
        return peer_pb2.HeldTask(
            task_id=self.id,
            job_id=self.job_id,
            stage=number(stage_pb2.Stage, self.stage),
            started=self.started,
            input_task_id=self.execute.input_task_id,
            copy=self.copies,
        )

    def __lt__(self, other: Task) -> bool:
        return self.order < other.order


def parameters(message: stage_pb2.JobParameters, files: Mapping[str, Any]) -> Parameters:
    """What the model is asked for; an absent field is the model's own default. `files`: None: all but its names."""
    given = {field.name: value for field, value in message.ListFields() if field.message_type is None}
    return Parameters(
        **{"prompt": "", "seed": 0, **given},
        images={name: one for name, one in files.items() if name not in (CONTROLS, IP_ADAPTERS)},
        adapters=tuple(Wanted(one.name, one.scale if one.HasField("scale") else None) for one in message.adapters),
        controls=tuple(_control(*one) for one in _pictured(message.controls, files.get(CONTROLS))),
        ip_adapters=tuple(_ip_adapter(*one) for one in _pictured(message.ip_adapters, files.get(IP_ADAPTERS))),
        extra={name: _scalar(value) for name, value in message.extra.items()},
    )


def _pictured(named: Sequence[N], pictures: Pictures | None) -> Iterator[tuple[N, Image | None]]:
    """Each with its picture, of those that came in the same order; None where none came."""
    given: Sequence[Image | None] = pictures if isinstance(pictures, Sequence) else [pictures]
    return zip(named, [*given, *[None] * len(named)], strict=False)


def _control(one: stage_pb2.Control, image: Image | None) -> Control:
    return Control(
        name=one.name,
        image=image,
        scale=one.scale if one.HasField("scale") else None,
        start=one.start if one.HasField("start") else 0.0,
        end=one.end if one.HasField("end") else 1.0,
        mode=one.mode if one.HasField("mode") else None,
    )


def _ip_adapter(one: stage_pb2.IPAdapter, image: Image | None) -> IPAdapter:
    return IPAdapter(name=one.name, image=image, scale=one.scale if one.HasField("scale") else None)


def _scalar(value: stage_pb2.Scalar) -> int | float | str | bool:
    kind = value.WhichOneof("value")
    if kind is None:
        raise InvalidRequest("extra: a value is missing")
    scalar: int | float | str | bool = getattr(value, kind)
    return scalar


def classify(error: BaseException) -> tuple[int, str]:
    """The failure kind that tells the router what to do next, and a short text for the client."""
    text = str(error)[:MAX_MESSAGE_CHARS]
    match error:
        case InvalidRequest():
            return stage_pb2.FAILURE_KIND_INVALID_REQUEST, text
        case TooLarge():
            return stage_pb2.FAILURE_KIND_TOO_LARGE, text
        case PoolFull():
            return stage_pb2.FAILURE_KIND_POOL_FULL, text
        case ModeMismatch():
            return stage_pb2.FAILURE_KIND_INCOMPATIBLE, text
        case TransportError() | PayloadError():
            return stage_pb2.FAILURE_KIND_TRANSFER, f"{type(error).__name__}: {text}"
        case StoreRefused():
            return stage_pb2.FAILURE_KIND_STORE, text
        case DeadlinePassed():
            return stage_pb2.FAILURE_KIND_DEADLINE, text
    return stage_pb2.FAILURE_KIND_MODEL_ERROR, f"{type(error).__name__}: {text}"
