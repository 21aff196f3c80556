"""The second way to cut a model: capture and replay of the pipeline's own `__call__`, for families without blocks.

Each role holds the weights of its own components (see `kinds.py`) and shells for the rest, and runs the same pipeline
code (see `capture.py`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import diffusers
import torch

from diffusion_worker.model import arguments, capture, media
from diffusion_worker.model.adapters import Adapters, Chosen
from diffusion_worker.model.classic import bind_call, image_inputs, needed_images, untaken_images
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.failures import failure
from diffusion_worker.model.families import SECOND_SCHEDULERS, SEVERAL_PICTURES
from diffusion_worker.model.folder import ModelFolder, load_component, quieten, torch_dtype
from diffusion_worker.model.inputs import requested_name
from diffusion_worker.model.intact import check_made, watched
from diffusion_worker.model.kinds import classes_of, owned_of, roles_of
from diffusion_worker.model.loops import Parked
from diffusion_worker.model.products import product_of
from diffusion_worker.model.records import pack, unpack
from diffusion_worker.model.retrace import OwnDraws, Retrace, Retraced, schedulers_of
from diffusion_worker.model.schedulers import Schedulers
from diffusion_worker.model.shells import is_shell, make_shell
from diffusion_worker.model.soundness import check_arguments, check_cut, is_sound, pictures_of
from diffusion_worker.model.standins import Questions, stand_in
from diffusion_worker.model.tiling import set_tiling
from diffusion_worker.model.types import (
    NO_ADAPTERS,
    RESUME,
    AdapterFiles,
    InvalidRequest,
    Media,
    ModelError,
    Offered,
    Parameters,
    SchedulerKind,
    UnsupportedModel,
    Values,
    Workflow,
)
from diffusionpipeline.words import Stage

if TYPE_CHECKING:
    from diffusion_worker.model.ip_adapters import Shown


class Request(TypedDict):
    """What goes with a request through all stages, beside what they make."""

    pipeline: str
    diffusers: str
    """Its version."""
    kind: str
    """Which pipeline: own, or by the input that it is for."""
    call: object
    """Packed arguments of `__call__`."""
    seed: int
    fps: int
    output_format: str
    scheduler: str
    """The name that the request gave; empty: the folder's own."""
    controls: NotRequired[list[str]]
    """Names of the ControlNets that lead it."""
    ip_adapters: NotRequired[list[tuple[str, float]]]
    """Names of the IP-Adapters that show it pictures, and how much each counts."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a model is made of that another model object of the same folder has already."""

    classes: Mapping[str, Any]
    """Pipelines by the input that they are for; own: for none."""
    components: Mapping[str, Any]
    adapters: Adapters
    denoisers: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    """Networks that are no components of the folder."""
    encoders: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    """The same."""


class ReplayModel:
    """A model, or the roles of it in `stages`, cut by replaying its pipeline. Implements StageModel.

    Raises UnsupportedModel when the folder can't be loaded, has nothing that denoises or decodes, or can't be cut.
    """

    way = "replay"

    def __init__(
        self,
        folder: ModelFolder,
        *,
        stages: frozenset[Stage],
        dtype: str,
        device: str,
        allow_pickle: bool = False,
        adapters: AdapterFiles = NO_ADAPTERS,
        schedulers: Sequence[SchedulerKind] = (),
        vae_tiling: bool = False,
        beside: Beside | None = None,
    ) -> None:
        """`beside`: instead of the folder's own classes and adapters."""
        quieten()
        self.stages = stages
        self._folder = folder
        self._device = torch.device(device)
        self._classes = classes_of(self._folder) if beside is None else dict(beside.classes)
        self.output = product_of(self._classes["own"])
        self._untaken = untaken_images(self._folder)
        roles = roles_of(self._folder)
        kinds = {name: self._folder.component_class(name) for name in roles}
        decoders = {name: kind for name, kind in kinds.items() if callable(getattr(kind, "decode", None))}
        own = self._classes["own"]
        check_cut(own, decoders)
        check_arguments(own, image_inputs(own))
        self._classes = {
            kind: one
            for kind, one in self._classes.items()
            if kind == "own" or is_sound(one, decoders, image_inputs(one))
        }
        self.owned = owned_of(self._folder, roles, self._classes)
        """Components with weights, by the stage that loads them: of all stages, not only of this object's."""
        self.workflows = tuple(
            Workflow(images=frozenset(map(requested_name, needed_images(one))), encoding_reads=None, resumable=True)
            for one in self._classes.values()
        )
        whole = {name for stage in stages for name in self.owned[stage]}
        there = {} if beside is None else beside.components
        self._components: dict[str, Any] = {}
        for name in sorted(self._folder.components):
            if name in there and not (is_shell(there[name]) and name in whole):
                self._components[name] = there[name]
            elif name in whole or name not in roles:
                self._components[name] = load_component(
                    self._folder, name, dtype=torch_dtype(dtype), device=device, allow_pickle=allow_pickle
                )
            else:
                self._components[name] = make_shell(self._folder, name, dtype=torch_dtype(dtype), device=device)
        set_tiling(self._components, folder, wanted=vae_tiling)
        held = {name: self._components[name] for name in sorted(whole)}
        self.adapters = Adapters(folder.pipeline_class, held, adapters) if beside is None else beside.adapters
        encoders, denoisers, decoders = (
            {name: self._components[name] for name, role in roles.items() if role is stage} for stage in Stage
        )
        if beside is not None:
            encoders, denoisers = encoders | dict(beside.encoders), denoisers | dict(beside.denoisers)
        self._parts = capture.Parts(encoders, denoisers, decoders)
        self._pipelines = {kind: self._build(one) for kind, one in self._classes.items()}
        # After those, for some mend the config of their scheduler when they are made.
        self.schedulers = Schedulers(self._components, schedulers, denoises=Stage.DENOISE in stages)

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the components that this object holds in full."""
        return frozenset(name for name, component in self._components.items() if not is_shell(component))

    @property
    def image_inputs(self) -> frozenset[str]:
        """Names of all input images that some request may bring."""
        taken = {requested_name(name) for one in self._classes.values() for name in image_inputs(one)}
        return frozenset(taken - self._untaken.keys())

    @property
    def several_inputs(self) -> frozenset[str]:
        """Those of them that may be several pictures."""
        return SEVERAL_PICTURES.get(self._folder.pipeline_class, frozenset()) & self.image_inputs

    @property
    def folder(self) -> ModelFolder:
        """The model's folder."""
        return self._folder

    @property
    def schedulers_offered(self) -> Sequence[str]:
        return self.schedulers.names

    @property
    def components(self) -> Mapping[str, Any]:
        """By name: held in full, or as shells."""
        return self._components

    def adapters_offered(self) -> list[Offered] | None:
        return self.adapters.offered() if self.adapters else None

    def encode(self, parameters: Parameters) -> Values:
        self._require(Stage.ENCODE)
        arguments.check_format(parameters.output_format, self.output)
        request = self._bind(parameters)
        self.adapters.activate_all(self.adapters.choose(parameters.adapters))
        with self._run(Stage.ENCODE, request) as run:
            return {**request, "records": capture.encode(run)}

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        # All else of the request is in what encoding made: this way can't tell what encoding read.
        self._require(Stage.DENOISE)
        request = self._request(values)
        records = cast(list[capture.Record], values["records"])
        resume = cast(Retraced | None, values.get(RESUME))
        chosen = self.adapters.choose(parameters.adapters)
        try:
            with self._run(Stage.DENOISE, request, OwnDraws(driver, self._device), chosen) as run:
                schedulers = schedulers_of(vars(run.pipeline))
                retrace = Retrace(driver, schedulers, run.generator, self._device, resume)
                made = capture.denoise(run, records, retrace)
        except Parked as parked:
            return {**values, RESUME: parked.resume}
        for decoding in (made["decoding"], *made.get("others", ())):
            check_made(decoding, Stage.DENOISE)
        return {**request, **made}

    def decode(self, values: Values) -> list[Media]:
        self._require(Stage.DECODE)
        request = self._request(values)
        with self._run(Stage.DECODE, request) as run, watched(self._parts.decoders.values()):
            result = capture.decode(run, cast(capture.Made, values))
        if self.output == "image":
            return media.encode_images(_made(result), request["output_format"])
        sound = media.sound_of(getattr(result, "audio", None), self._components.get("vocoder"))
        return [media.encode_video(one, request["fps"], sound) for one in media.frames_of(_made(result))]

    def _kind(self, parameters: Parameters) -> str:
        """Which of the classes is for it. Raises InvalidRequest."""
        # An input that no class is for is refused by one that takes inputs at all.
        otherwise = [*self._classes][-1] if parameters.images else "own"
        return next((kind for kind in self._classes if kind in parameters.images), otherwise)

    def _bind(self, parameters: Parameters) -> Request:
        for name in sorted(parameters.images.keys() & self._untaken.keys()):
            raise InvalidRequest(f"{name}: {self._untaken[name]}")
        self.schedulers.check(parameters.scheduler)
        kind = self._kind(parameters)
        call, fps = self._arguments(self._classes[kind], parameters)
        return {
            "pipeline": self._folder.pipeline_class,
            "diffusers": diffusers.__version__,
            "kind": kind,
            "call": pack(call, "the request"),
            "seed": parameters.seed,
            "fps": fps,
            "output_format": parameters.output_format,
            "scheduler": parameters.scheduler or "",
        }

    def _arguments(self, pipeline_class: Any, parameters: Parameters) -> tuple[dict[str, Any], int]:
        """What the pipeline is called with, and the frames per second of a video. Raises InvalidRequest."""
        return bind_call(pipeline_class, parameters, self._folder.defaults)

    def _equip(self, pipeline: Any, parts: capture.Parts, request: Request) -> None:
        """Gives the pipeline of one run what is no component of the folder. `parts` are its own."""

    def _shown(self, request: Request) -> Shown | None:
        """What IP-Adapters show its networks."""
        return None

    @contextmanager
    def _run(
        self, stage: Stage, request: Request, driver: Driver | None = None, chosen: Chosen | None = None
    ) -> Iterator[capture.Run]:
        """One run of the request's pipeline, whose denoisers ask `driver`. Names what goes wrong in it."""
        generator = torch.Generator("cpu").manual_seed(request["seed"])
        pipeline = copy.copy(self._pipelines[request["kind"]])
        for name, component in schedulers_of(self._components).items():
            # A scheduler keeps the state of one denoising, such as the history of a multistep method.
            fresh = self.schedulers.fresh(name, request["scheduler"])
            setattr(pipeline, name, copy.deepcopy(component) if fresh is None else fresh)
        for second, copied in SECOND_SCHEDULERS.items():
            if getattr(pipeline, second, self) is None:
                # Its own copy, made while it runs, could be neither followed nor parked.
                pipeline.__dict__[second] = copy.deepcopy(getattr(pipeline, copied))
        parts = self._silent() if driver is None else self._twins(driver, chosen, self._shown(request))
        for name, part in parts.all():
            # Past the pipeline's own __setattr__, which would register it.
            pipeline.__dict__[name] = part
        self._equip(pipeline, parts, request)
        call = unpack(request["call"], self._device) | {"generator": generator, "output_type": "np"}
        taken = inspect.signature(type(pipeline).__call__).parameters
        call = {name: value for name, value in call.items() if name in taken}
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            # What a pipeline draws without a generator comes from the global one; a retry must draw the same.
            with torch.random.fork_rng(devices):
                torch.manual_seed(request["seed"])
                yield capture.Run(pipeline, parts, call, generator, self._device)
        except ModelError:
            raise
        except Exception as error:
            absent = [requested_name(name) for name in pictures_of(type(pipeline)) if call.get(name) is None]
            raise failure(stage, type(pipeline).__name__, error, absent=absent) from error

    def _silent(self) -> capture.Parts:
        """Parts of one run that does not denoise."""
        denoisers = {name: copy.copy(one) for name, one in self._parts.denoisers.items()}
        return replace(self._parts, denoisers=denoisers)

    def _twins(self, driver: Driver, chosen: Chosen | None, shown: Shown | None) -> capture.Parts:
        """Parts that one denoising may listen to while others wait in the middle of theirs. None of them computes.

        (Computing is for originals: transformers notes on a module that it put hooks into its layers, and puts more
        into the same layers for a copy that lacks the note.)
        """
        questions = Questions()
        questions.driver, questions.adapters, questions.shown = driver, chosen, shown
        return capture.Parts(
            {name: copy.copy(one) for name, one in self._parts.encoders.items()},
            {name: stand_in(one, questions) for name, one in self._parts.denoisers.items()},
            {name: copy.copy(one) for name, one in self._parts.decoders.items()},
        )

    def _build(self, pipeline_class: Any) -> Any:
        taken = inspect.signature(pipeline_class.__init__).parameters
        given: dict[str, object] = {
            name: None for name, parameter in taken.items() if name != "self" and parameter.default is parameter.empty
        }
        given |= {name: value for name, value in self._folder.config.items() if name in taken}
        given |= {name: component for name, component in self._components.items() if name in taken}
        try:
            return pipeline_class(**given)
        except Exception as error:
            raise UnsupportedModel(f"{self._folder.path}: {pipeline_class.__name__} can't be made: {error}") from error

    def _request(self, values: Values) -> Request:
        """The request of what an earlier stage made."""
        made_by = (values.get("pipeline"), values.get("diffusers"))
        if made_by != (self._folder.pipeline_class, diffusers.__version__):
            raise ModelError(
                f"the input was made by {made_by[0]} of diffusers {made_by[1]}; this worker runs "
                f"{self._folder.pipeline_class} of diffusers {diffusers.__version__}"
            )
        return cast(Request, {name: value for name, value in values.items() if name in Request.__annotations__})

    def _require(self, stage: Stage) -> None:
        if stage not in self.stages:
            raise ModelError(f"{stage}: this model was loaded for {', '.join(sorted(self.stages))} alone")


def _made(result: Any) -> Any:
    """The pictures or frames of a pipeline's output object, by whichever name they go."""
    for name in ("frames", "images", "image"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    return result[0]
