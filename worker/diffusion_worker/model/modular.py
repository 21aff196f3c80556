"""The first way to cut a model: run the blocks of Modular Diffusers that belong to a role, and those alone.

Components, inputs and outputs of blocks are declared, so the cut needs no code for a family. What encoding hands on is
conditioning: what a later stage declares as input and encoding made of what it reads. Denoising binds the request for
itself; what it hands on is all that decoding needs, the generator's state and the request's own scalars included. Never
the whole state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, cast

import diffusers
import numpy as np
import torch

from diffusion_worker.model import media
from diffusion_worker.model.adapters import Adapters, Chosen
from diffusion_worker.model.binding import GENERATOR, Bound, bind, encoding_reads, pictures
from diffusion_worker.model.cut import Pieces, check_sound, find_cut, output_of
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.failures import failure
from diffusion_worker.model.families import PICTURES_ALONE, SEVERAL_PICTURES
from diffusion_worker.model.folder import ModelFolder, load_component, quieten, torch_dtype
from diffusion_worker.model.handed import Conditioning, Made, begin, is_same, plain
from diffusion_worker.model.intact import check_made, watched
from diffusion_worker.model.loops import Parked, Walk, can_park, resume_of
from diffusion_worker.model.ownership import declared, owned_by_blocks, shell_instead
from diffusion_worker.model.pipes import Pipe, Pipes, build
from diffusion_worker.model.schedulers import Schedulers
from diffusion_worker.model.shells import is_shell, make_shell
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

ANY_GUIDANCE: Final = 2.0
"""A scale with which a guider is on; encoders ask for no more."""


@dataclass(frozen=True, eq=False)
class Denoising:
    """Who drives one, where it is in its loop, and with which adapters."""

    driver: Driver | None = None
    walk: Walk | None = None
    adapters: Chosen | None = None


NOBODY: Final = Denoising()
"""Of stages that call no denoiser."""


class ModularModel:
    """A model, or the roles of it in `stages`, cut along its blocks. Implements StageModel.

    Raises UnsupportedModel when the folder can't be loaded, cut, or can't be run in these roles.
    """

    way = "modular"

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
    ) -> None:
        quieten()
        self.stages = stages
        self._folder = folder
        self._dtype = torch_dtype(dtype)
        self._device = torch.device(device)
        cut = find_cut(self._folder)
        if cut is None:
            raise UnsupportedModel(f"{folder.path}: diffusers {diffusers.__version__} has no blocks for it")
        self._cut = cut
        workflows = {name: cut.pieces(triggers) for name, triggers in cut.workflows.items()}
        self.output = output_of(cut, workflows.values())
        for name, pieces in workflows.items():
            check_sound(cut, name, pieces)
        self.owned = owned_by_blocks(cut, self._folder)
        """Components with files, by the stage that loads them: of all stages, not only of this object's."""
        wanted = {name for stage in stages for name in self.owned[stage]}
        self._components: dict[str, Any] = {
            name: load_component(self._folder, name, dtype=self._dtype, device=device, allow_pickle=allow_pickle)
            for name in sorted(wanted)
        }
        self._components |= {
            name: make_shell(self._folder, name, dtype=self._dtype, device=device)
            for name in sorted(self._folder.components.keys() - wanted)
            if self._folder.is_module(name)
        }
        set_tiling(self._components, folder, wanted=vae_tiling)
        own = {name: self._components[name] for name in sorted(wanted)}
        self.adapters = Adapters(folder.pipeline_class, own, adapters)
        self.schedulers = Schedulers(self._components, schedulers, denoises=Stage.DENOISE in stages)
        read_too = {"adapters"} if self.adapters.may_touch(self.owned[Stage.ENCODE]) else set()
        self.workflows = tuple(
            Workflow(
                images=frozenset(cut.workflows[name].keys() & cut.image_inputs),
                encoding_reads=encoding_reads(pieces, cut) | read_too,
                resumable=can_park(pieces.blocks[Stage.DENOISE]),
            )
            for name, pieces in workflows.items()
        )
        self._pipes = Pipes()
        self._size_multiple = self._smallest_size()

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the components that this object holds in full."""
        return frozenset(name for name, component in self._components.items() if not is_shell(component))

    @property
    def image_inputs(self) -> frozenset[str]:
        """Names of all input images that some request may bring."""
        return self._cut.image_inputs

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
        bound = self._bind(parameters)
        self.adapters.activate_all(self.adapters.choose(parameters.adapters))
        generator = torch.Generator("cpu").manual_seed(parameters.seed)
        made = begin(bound, {**bound.inputs, **pictures(parameters, self._cut, self._folder)}, {}, generator)
        shipped = self._run(Stage.ENCODE, made)
        conditioning: Conditioning = {
            "pipeline": shipped["pipeline"],
            "diffusers": shipped["diffusers"],
            # What a later role knows from the request itself is no part of it.
            "inputs": {
                name: value for name, value in shipped["inputs"].items() if not is_same(value, bound.inputs.get(name))
            },
            "tags": shipped["tags"],
        }
        if "seed" in encoding_reads(bound.pieces, self._cut):
            conditioning["generator"] = generator
        return {**conditioning}

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        self._require(Stage.DENOISE)
        conditioning = self._unpack(values, Conditioning.__required_keys__)
        bound = self._bind(parameters)
        generator = conditioning.get("generator") or torch.Generator("cpu").manual_seed(parameters.seed)
        made = begin(bound, {**bound.inputs, **conditioning["inputs"]}, conditioning["tags"], generator)
        walk = Walk(driver, generator, resume_of(values))
        chosen = self.adapters.choose(parameters.adapters)
        try:
            latents = self._run(Stage.DENOISE, made, Denoising(driver, walk, chosen))
        except Parked as parked:
            return {**values, RESUME: parked.resume}
        check_made(latents["inputs"], Stage.DENOISE)
        return {**latents}

    def decode(self, values: Values) -> list[Media]:
        self._require(Stage.DECODE)
        made = cast(Made, self._unpack(values, Made.__required_keys__))
        # Of "pil" nobody could tell any more whether a model's numbers were finite, but for what its decoder returns.
        made["inputs"]["output_type"] = "pil" if PICTURES_ALONE & made["inputs"].keys() else "np"
        with watched(self._components[name] for name in self.owned[Stage.DECODE]):
            state = self._call(Stage.DECODE, made)
        if self.output == "image":
            layered = self._cut.family.layered
            return media.encode_images(state.values["images"], made["output_format"], layered=layered)
        audio = media.sound_of(state.values.get("audio"), self._components.get("vocoder"))
        return [media.encode_video(frames, made["fps"], audio) for frames in media.frames_of(state.values["videos"])]

    # What follows runs one stage.

    def _bind(self, parameters: Parameters) -> Bound:
        self.schedulers.check(parameters.scheduler)
        return bind(parameters, self._cut, self._folder, output=self.output, size_multiple=self._size_multiple)

    def _run(self, stage: Stage, made: Made, denoising: Denoising = NOBODY) -> Made:
        """What later stages need: of what the stage was given, and of what it made."""
        state = self._call(stage, made, denoising)
        needs = self._cut.pieces(made["triggers"]).needs_after(stage)
        merged = {**made["inputs"], **state.values}
        tags = dict(made["tags"])
        for tag, names in state.kwargs_mapping.items():
            tags[tag] = list(dict.fromkeys([*tags.get(tag, []), *names]))
        wanted = needs.names.union(*(tags.get(tag, []) for tag in needs.tags)) - {GENERATOR, "output_type"}
        shipped = {name: plain(merged[name]) for name in sorted(wanted) if merged.get(name) is not None}
        kept = {tag: [name for name in names if name in shipped] for tag, names in sorted(tags.items())}
        return {
            **made,
            "pipeline": self._cut.name,
            "diffusers": diffusers.__version__,
            "inputs": shipped,
            "tags": {tag: names for tag, names in kept.items() if names},
        }

    def _call(self, stage: Stage, made: Made, denoising: Denoising = NOBODY) -> Any:
        """Runs the stage's blocks and returns their PipelineState."""
        triggers = made["triggers"]
        key = (stage, tuple(sorted(triggers.items())))
        with self._pipes.take(key, lambda: self._build(stage, self._cut.pieces(triggers))) as pipe:
            pipe.questions.driver, pipe.questions.adapters = denoising.driver, denoising.adapters
            pipe.place.walk = denoising.walk
            self._set_guidance(pipe, stage, made["guidance_scale"])
            return self._call_with(pipe, stage, made)

    def _call_with(self, pipe: Pipe, stage: Stage, made: Made) -> Any:
        inputs, tags = made["inputs"], made["tags"]
        self.schedulers.renew(pipe.pipeline, self._components, made["scheduler"], made["generator"])
        given: dict[str, Any] = {}
        for parameter in self._cut.pieces(made["triggers"]).inputs_of(stage):
            if parameter.name == "generator":
                given["generator"] = made["generator"]
            elif parameter.name in inputs:
                given[parameter.name] = inputs[parameter.name]
            elif not parameter.name and parameter.kwargs_type in tags:
                names = tags[parameter.kwargs_type]
                given[parameter.kwargs_type] = {name: inputs[name] for name in names if name in inputs}
        try:
            return pipe.pipeline(**given)
        except ModelError:
            raise
        except Exception as error:
            raise failure(stage, self._cut.name, error) from error

    def _unpack(self, values: Values, keys: AbstractSet[str]) -> dict[str, Any]:
        """These entries of what an earlier stage made, and its generator, as copies that this stage may change."""
        made_by = (values.get("pipeline"), values.get("diffusers"))
        if made_by != (self._cut.name, diffusers.__version__):
            raise ModelError(
                f"the input was made by {made_by[0]} of diffusers {made_by[1]}; this worker runs {self._cut.name} of "
                f"diffusers {diffusers.__version__}"
            )
        if missing := keys - values.keys():
            raise ModelError(f"the input is not what a stage of this model makes: it has no {min(missing)}")
        made: dict[str, Any] = {name: values[name] for name in keys}
        made["inputs"] = {name: self._own(value) for name, value in made["inputs"].items()}
        if GENERATOR in values:
            made[GENERATOR] = torch.Generator("cpu")
            made[GENERATOR].set_state(cast(torch.Generator, values[GENERATOR]).get_state())
        return made

    def _own(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            # A tensor's layout may choose another kernel, so it is the same whether or not it came through a slot.
            return value.detach().to(self._device).clone(memory_format=torch.contiguous_format)
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, dict):
            return {name: self._own(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._own(entry) for entry in value)
        return value

    def _build(self, stage: Stage, pieces: Pieces) -> Pipe:
        for name in declared(stage, pieces, self._folder):
            component = self._components.get(name)
            if component is None or (is_shell(component) and name not in shell_instead(stage, self._cut)):
                raise InvalidRequest(
                    f"{self._cut.name}: this request needs component {name} for {stage}, which no served workflow "
                    f"({', '.join(self._cut.workflows)}) loads"
                )
        networks = self.owned[stage] if stage is Stage.DENOISE else frozenset()
        return build(pieces.blocks[stage], self._pipeline, networks, guides_in_one=self._cut.family.guides_in_one)

    def _pipeline(self, blocks: Any) -> Any:
        pipeline = self._cut.pipeline_class(blocks=blocks, pretrained_model_name_or_path=str(self._folder.path))
        for name, component in self._components.items():
            setattr(pipeline, name, component)
        return pipeline

    def _set_guidance(self, pipe: Pipe, stage: Stage, scale: float | None) -> None:
        """Gives the stage guiders of this request's own: a guider counts steps, and its scale is the request's."""
        family = self._cut.family
        for name, guider in pipe.guiders.items():
            if stage is Stage.ENCODE and family.encodes_negative:
                changes: dict[str, Any] = {"guidance_scale": ANY_GUIDANCE, "enabled": True}
            elif scale is not None:
                # The published formula has no effect at 0, the common one at 1.
                neutral = 0.0 if family.guider.get("use_original_formulation") else 1.0
                changes = {"guidance_scale": scale, "enabled": scale > neutral, **family.guider}
            else:
                changes = {}
            setattr(pipe.pipeline, name, guider.new(**changes))

    # What follows decides what is loaded.

    def _require(self, stage: Stage) -> None:
        if stage not in self.stages:
            raise ModelError(f"{stage}: this model was loaded for {', '.join(sorted(self.stages))} alone")

    def _smallest_size(self) -> int:
        """The number of pixels that width and height must be multiples of."""
        pieces = self._cut.pieces(next(iter(self._cut.workflows.values())))
        pipeline = self._pipeline(pieces.blocks[Stage.DENOISE])
        names = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
        scale = next((value for name in names if isinstance(value := getattr(pipeline, name, None), int)), 1)
        patch: object = 1
        for name in ("transformer", "unet"):
            config = getattr(self._components.get(name), "config", None)
            patch = getattr(config, "patch_size", None) or 1
            if patch != 1:
                break
        side = patch[-1] if isinstance(patch, list | tuple) else patch
        return scale * max(side if isinstance(side, int) else 1, self._cut.family.packing)
