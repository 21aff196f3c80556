"""The words that a worker's task runner and a model share, free of torch, so that importing them costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from diffusionpipeline.words import Stage

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffusion_worker.model.driving import Driver

Scalar: TypeAlias = "int | float | str | bool"


Pictures: TypeAlias = "Image | Sequence[Image]"
"""One picture; several, in order; or the frames of a video."""

Values: TypeAlias = "dict[str, object]"
"""What crosses a stage boundary: nested dicts and lists of the types that the payload codec carries."""

RESUME: Final = "resume"
"""The name of a checkpoint among `Values`."""

OnStep: TypeAlias = Callable[[int, int], None]
"""Called after each denoising step with (step, steps), 1-based. What it raises ends the denoising."""


class Wanted(NamedTuple):
    """An adapter that a request is computed with. `scale`: None is the adapter's own."""

    name: str
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """Where an adapter's weights are: a safetensors file, or the folder of one, whose name `file` may say."""

    name: str
    path: Path
    file: str = ""
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Adapters that a model is to have: those listed, from the start on, and those in `folder`, when they are wanted.

    max_loaded: of the folder's at once.
    """

    listed: Sequence[AdapterFile] = ()
    folder: Path | None = None
    max_loaded: int = 8


NO_ADAPTERS: Final = AdapterFiles()


@dataclass(frozen=True, slots=True)
class SchedulerKind:
    """A scheduler that requests may name: a class of diffusers, and options over the config of the folder's own."""

    name: str
    class_name: str
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControlNetFiles:
    """Where a ControlNet is that a model is to have beside its own networks: a folder with config.json and weights."""

    name: str
    path: Path
    scale: float = 1.0
    """How much it counts where a request gives nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A ControlNet that leads a request, and the picture by which it does. None means the network's own."""

    name: str
    image: Image | None = None
    """None: in roles after the encoder, which has made what it could of it."""
    scale: float | None = None
    start: float = 0.0
    """From this share of the steps on, 0 to 1."""
    end: float = 1.0
    mode: int | None = None
    """Which kind of picture it is, of a network that was trained on several."""


@dataclass(frozen=True, slots=True)
class IPAdapterFiles:
    """Where an IP-Adapter is that a model is to have. None: in roles that have no use for it."""

    name: str
    file: Path | None
    """Its weights; for encoders and denoisers."""
    image_encoder: Path | None
    """A folder with config.json and weights; for encoders."""
    scale: float = 1.0
    """How much it counts where a request gives nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IPAdapter:
    """An IP-Adapter that a request is computed with, and the picture that it shows the model."""

    name: str
    image: Image | None = None
    """None: in roles after the encoder, which has made what it could of it."""
    scale: float | None = None
    """None: the adapter's own."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An adapter that a model can compute with. It was loaded `loads` times, of which the last took `load_seconds`."""

    name: str
    scale: float
    loaded: bool
    load_seconds: float
    bytes: int
    loads: int


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """One request. None means the model's own default."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    num_frames: int | None = None
    fps: int | None = None
    images: Mapping[str, Pictures] = field(default_factory=dict)
    """Input pictures and videos by the name of the argument that takes them: image, last_image, video, …"""
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    """Arguments that only this family of models has, such as max_sequence_length."""
    adapters: Sequence[Wanted] = ()
    """In this order: sums of several depend on it in their last bits."""
    scheduler: str | None = None
    """The name of one of those that the model was loaded with; None: the folder's own."""
    controls: Sequence[Control] = ()
    ip_adapters: Sequence[IPAdapter] = ()
    exact: bool | None = None
    """Computed with nobody else's request."""
    output_format: str = "png"
    """png, webp or jpeg for an image; mp4 for a video."""


@dataclass(frozen=True)
class Media:
    """One encoded file; `num_frames` is 1 for a picture."""

    data: bytes
    media_type: str
    width: int
    height: int
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """One use of a model: requests with these input images."""

    images: frozenset[str]
    encoding_reads: frozenset[str] | None
    """Fields of `Parameters`, names of its `extra`, or seed: requests that agree in them have the same conditioning.
    None: it is not known what encoding reads."""
    resumable: bool
    """A denoising can be parked at any step, and go on elsewhere."""


def is_resumable(workflows: Sequence[Workflow], inputs: AbstractSet[str]) -> bool:
    """Whether a request with these inputs can be parked: the use of the model that takes most of them says so."""
    taking = [one for one in workflows if one.images <= inputs]
    most = max((len(one.images) for one in taking), default=0)
    return bool(taking) and all(one.resumable for one in taking if len(one.images) == most)


Told: TypeAlias = Callable[[int, int], None]
"""Called, by several threads, with the bytes of a download that are there, and with all of them."""


class StepCancelled(BaseException):
    """Raised by `on_step` to stop a denoising at a step boundary.

    A BaseException because Modular Diffusers logs a traceback for every Exception that leaves a block.
    """


class ModelError(Exception):
    """The model failed on a request that it should have served."""


class InvalidRequest(ModelError):
    """The request can't be served by this model; the message names the field. No retry helps."""


class UnsupportedModel(ModelError):
    """The model, or this role of it, can't be loaded; the message names what is missing."""


class DownloadFailed(ModelError):
    """The hub does not give the model; the message names the resource's field and the remedy."""


class StageModel(Protocol):
    """One role's share of a model. Used from one thread.

    `denoise` and `decode` leave `values` as they found them: a retry with the same values makes the same bytes.
    """

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages that this object holds the weights for."""

    @property
    def output(self) -> str:
        """image or video."""

    @property
    def workflows(self) -> Sequence[Workflow]:
        """The uses that are served."""

    @property
    def schedulers_offered(self) -> Sequence[str]:
        """Names of the schedulers that requests may name."""

    def adapters_offered(self) -> list[Offered] | None:
        """All that requests may name; None: this model never has any. Callable from any thread; may read a folder."""

    def encode(self, parameters: Parameters) -> Values:
        """Raises InvalidRequest, ModelError."""

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        """Has `driver` call its networks. Parked, it returns what goes on from there: `values` and a checkpoint.

        `values`: what encoding made of this request, or of one that is the same to it. Of images only the names matter.

        Raises InvalidRequest, ModelError and what the driver raises, if that is no Exception.
        """

    def decode(self, values: Values) -> list[Media]:
        """Raises InvalidRequest, ModelError."""


class RoleModel(StageModel, Protocol):
    """A StageModel that can say how it was made, as both ways to cut a model do."""

    @property
    def way(self) -> str:
        """How the pipeline is cut: modular or replay."""

    @property
    def image_inputs(self) -> frozenset[str]:
        """Names of all input images that some request may bring."""

    @property
    def several_inputs(self) -> frozenset[str]:
        """Those of them that may be several pictures."""

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the components that this object holds in full; of others it holds a shell or nothing."""
