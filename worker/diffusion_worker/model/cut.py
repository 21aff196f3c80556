"""Where a modular pipeline is cut: which of its blocks belong to which stage, for the inputs that are really given.

Every family's top level reads: encoder blocks …, `denoise`, decoder blocks …. Conditional blocks are resolved by the
presence of inputs, so that a role neither runs nor loads what a request does not need (SDXL's adapter block alone
would put the UNet into the encoder).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, get_args

import torch
from PIL.Image import Image

from diffusion_worker.model.families import (
    MODULAR_CLASS,
    NEEDED_CONFIG,
    OPTIONAL_NETWORKS,
    PICTURES,
    PRESENT_INPUTS,
    REPLAY_INSTEAD,
    UNSPLITTABLE,
    WORKFLOWS,
    Family,
    family_of,
)
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.types import UnsupportedModel
from diffusionpipeline.words import STAGES, Stage

Triggers = Mapping[str, object]
"""Inputs by name that choose between blocks: the value of a boolean, True for anything else that is there."""

MAX_CACHED_PIECES: Final = 64
DENOISE_BLOCK: Final = "denoise"
OUTPUTS: Final = {"images": "image", "videos": "video"}


@dataclass(frozen=True)
class Needs:
    """What a stage takes: values by name, and all values that carry one of these tags."""

    names: frozenset[str]
    tags: frozenset[str]


class Pieces:
    """The blocks that run for one set of triggers, by stage."""

    def __init__(self, blocks: Mapping[Stage, Any]) -> None:
        self.blocks = blocks
        # Blocks gather their declarations anew from all their parts whenever they are asked, which takes longer than
        # all else that is done to bind a request.
        self._inputs = {stage: tuple(one.inputs) for stage, one in blocks.items()}
        self._components = {
            stage: {spec.name: spec for spec in one.expected_components} for stage, one in blocks.items()
        }

    def needs_after(self, stage: Stage) -> Needs:
        """What the stages after `stage` declare as input."""
        inputs = [parameter for other in STAGES[STAGES.index(stage) + 1 :] for parameter in self._inputs[other]]
        return Needs(
            frozenset(parameter.name for parameter in inputs if parameter.name),
            frozenset(parameter.kwargs_type for parameter in inputs if not parameter.name and parameter.kwargs_type),
        )

    def inputs_of(self, stage: Stage) -> tuple[Any, ...]:
        """What a stage declares as input: InputParams by name, and unnamed ones for tags."""
        return self._inputs[stage]

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """What the pipeline as a whole takes from outside, by name: InputParam of the first block that declares it."""
        found: dict[str, Any] = {}
        made: set[str] = set()
        for stage in STAGES:
            for parameter in self._inputs[stage]:
                if parameter.name and parameter.name not in made:
                    found.setdefault(parameter.name, parameter)
            made |= {output.name for output in self.blocks[stage].outputs} - found.keys()
        return found

    def components(self, stage: Stage) -> Mapping[str, Any]:
        """The component specs of a stage by name."""
        return self._components[stage]

    def output(self) -> str | None:
        """image or video, by the names of what the last stage makes."""
        made = [OUTPUTS[output.name] for output in self.blocks[Stage.DECODE].outputs if output.name in OUTPUTS]
        return made[0] if made else None


class Cut:
    """A modular pipeline's blocks, before any is loaded."""

    def __init__(
        self, pipeline_class: type, blocks: Any, components: Collection[str], untaken: Collection[str] = ()
    ) -> None:
        """`components` are those that the model folder's index names; `untaken`, inputs that they can't do with."""
        self.pipeline_class = pipeline_class
        self.family: Family = family_of(pipeline_class.__name__)
        self._blocks = blocks
        self._trigger_names = frozenset(_trigger_names(blocks))
        self._pieces: dict[tuple[tuple[str, object], ...], Pieces] = {}
        served = self._served_workflows(components)
        self.workflows = {name: triggers for name, triggers in served.items() if not triggers.keys() & set(untaken)}
        """Triggers of each workflow that is served, by its name."""

    @property
    def name(self) -> str:
        """The modular pipeline's class name."""
        return self.pipeline_class.__name__

    @property
    def image_inputs(self) -> frozenset[str]:
        """Names of the inputs that choose a served workflow, other than those that every request brings."""
        return frozenset(name for triggers in self.workflows.values() for name in triggers) - set(PRESENT_INPUTS)

    def triggers(self, given: Mapping[str, object]) -> dict[str, object]:
        """The triggers among `given`. A later stage that gets them resolves the same blocks."""
        return {
            name: value if isinstance(value, bool) else True
            for name, value in sorted(given.items())
            if name in self._trigger_names and value is not None
        }

    def pieces(self, triggers: Triggers) -> Pieces:
        """The blocks that run for these triggers."""
        key = tuple(sorted(triggers.items()))
        if key not in self._pieces:
            if len(self._pieces) >= MAX_CACHED_PIECES:
                self._pieces.clear()
            self._pieces[key] = self._resolve(triggers)
        return self._pieces[key]

    def networks(self, triggers: Triggers) -> frozenset[str]:
        """Components that the blocks for these triggers declare, of any stage."""
        pieces = self.pieces(triggers)
        return frozenset(name for stage in STAGES for name in pieces.components(stage))

    def _resolve(self, triggers: Triggers) -> Pieces:
        from diffusers.modular_pipelines import SequentialPipelineBlocks

        resolved = self._blocks.get_execution_blocks(**triggers).sub_blocks
        by_stage: dict[Stage, dict[str, Any]] = {stage: {} for stage in STAGES}
        stage = Stage.ENCODE
        for name, block in resolved.items():
            if name.split(".")[0] == DENOISE_BLOCK:
                stage = Stage.DENOISE
            elif stage is not Stage.ENCODE:
                stage = Stage.DECODE
            by_stage[stage][name] = block
        empty = [stage.value for stage, blocks in by_stage.items() if not blocks]
        if empty:
            raise UnsupportedModel(f"{self.name}: no block of it runs as {', '.join(empty)}")
        return Pieces({s: SequentialPipelineBlocks.from_blocks_dict(blocks) for s, blocks in by_stage.items()})

    def _served_workflows(self, components: Collection[str]) -> dict[str, dict[str, object]]:
        always = dict.fromkeys(PRESENT_INPUTS, True)
        declared = self._blocks._workflow_map
        if declared is None:
            return self._undeclared_workflows(always)
        served: dict[str, dict[str, object]] = {}
        for name, triggers in declared.items():
            if name in WORKFLOWS:
                # A tuple lists spellings of one workflow that resolve to the same blocks.
                first = triggers[0] if isinstance(triggers, tuple) else triggers
                served[name] = always | first
        if not served:
            raise UnsupportedModel(f"{self.name}: none of its workflows is served: {', '.join(declared)}")
        # A folder may leave optional components out of all workflows (SD3's third text encoder); what one workflow
        # alone is missing, such as an image encoder, it can't do without.
        absent = {name: self._absent(triggers, components) for name, triggers in served.items()}
        return {name: served[name] for name in served if not any(less < absent[name] for less in absent.values())}

    def _undeclared_workflows(self, always: Mapping[str, object]) -> dict[str, dict[str, object]]:
        """Of blocks that name no workflows: with the pictures that they require, and with each other one beside."""
        pictures = {
            name: parameter.required
            for name, parameter in self.pieces(always).inputs.items()
            if _takes_picture(parameter) and name in PICTURES
        }
        needed = {**always, **{name: True for name, required in pictures.items() if required}}
        others = [name for name, required in pictures.items() if not required]
        return {"default": needed, **{f"with {name}": {**needed, name: True} for name in others}}

    def _absent(self, triggers: Triggers, components: Collection[str]) -> frozenset[str]:
        pieces = self.pieces(triggers)
        specs = [spec for stage in STAGES for spec in pieces.components(stage).values()]
        return frozenset(
            spec.name
            for spec in specs
            if spec.default_creation_method == "from_pretrained" and spec.name not in components
        )


def find_cut(folder: ModelFolder) -> Cut | None:
    """The cut of the folder's modular pipeline, or None where diffusers has no (sound) blocks for it."""
    import diffusers
    from diffusers import ModularPipeline

    unsound = REPLAY_INSTEAD.get(folder.pipeline_class, {})
    if unsound and all(folder.config.get(name) == value for name, value in unsound.items()):
        return None
    path = str(folder.path)
    try:
        if folder.pipeline_class in MODULAR_CLASS:
            base = getattr(diffusers, MODULAR_CLASS[folder.pipeline_class])(pretrained_model_name_or_path=path)
        else:
            base = ModularPipeline.from_pretrained(path, trust_remote_code=False)
    except ValueError:
        # "No pipeline blocks could be resolved": the family has none.
        return None
    name = type(base).__name__
    if name in UNSPLITTABLE:
        raise UnsupportedModel(f"{folder.path}: {name} can't be cut by role: {UNSPLITTABLE[name]}")
    blocks = base.blocks
    if DENOISE_BLOCK not in blocks.sub_blocks:
        return None
    needed = NEEDED_CONFIG.get(name, {})
    untaken = {
        taken for taken, (component, key) in needed.items() if folder.component_config(component).get(key) is None
    }
    cut = Cut(type(base), blocks, folder.components, untaken)
    return cut if _is_for(cut, folder) else None


def _is_for(cut: Cut, folder: ModelFolder) -> bool:
    """Whether the folder's own use is one of the workflows that the blocks are served with.

    Blocks are found by a model's family. A folder to mend or refine pictures, or with a network more (a ControlNet),
    would be taken for one that draws from texts.
    """
    used = {name for triggers in cut.workflows.values() for name in cut.networks(triggers)}
    if any(name not in used and folder.is_module(name) for name in folder.components if name not in OPTIONAL_NETWORKS):
        return False
    if folder.pipeline_class in MODULAR_CLASS:
        return True
    from diffusers.pipelines import auto_pipeline

    takes = [set(triggers) & cut.image_inputs for triggers in cut.workflows.values()]
    if _is_of(folder, auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING):
        return all("mask_image" in names for names in takes)
    if _is_of(folder, auto_pipeline.AUTO_VIDEO2VIDEO_PIPELINES_MAPPING):
        return all("video" in names for names in takes)
    if _is_of(folder, auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING):
        return True
    return not _is_of(folder, auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING) or all(takes)


def _is_of(folder: ModelFolder, task: Mapping[str, type]) -> bool:
    return folder.pipeline_class in {one.__name__ for one in task.values()}


def output_of(cut: Cut, workflows: Iterable[Pieces]) -> str:
    """image or video: what all of these make. Raises UnsupportedModel."""
    outputs = {pieces.output() for pieces in workflows}
    made = next(iter(outputs))
    if len(outputs) != 1 or made is None:
        raise UnsupportedModel(f"{cut.name}: its decoder makes neither images nor videos")
    return made


def check_sound(cut: Cut, workflow: str, pieces: Pieces) -> None:
    """Raises UnsupportedModel if a later stage needs a tensor that no earlier one makes."""
    made = {output.name for output in pieces.blocks[Stage.ENCODE].outputs}
    for stage in (Stage.DENOISE, Stage.DECODE):
        missing = sorted(
            parameter.name
            for parameter in pieces.inputs_of(stage)
            if parameter.required and parameter.default is None and parameter.type_hint is torch.Tensor
            if parameter.name not in made
        )
        if missing:
            raise UnsupportedModel(
                f"{cut.name}: {workflow}: {stage} needs {', '.join(missing)}, which no earlier stage makes"
            )
        made |= {output.name for output in pieces.blocks[stage].outputs}


def _takes_picture(parameter: Any) -> bool:
    """Whether a block's input may be one picture."""
    hint = parameter.type_hint
    return Image in (get_args(hint) or (hint,))


def _trigger_names(blocks: Any) -> Iterable[str]:
    for block in blocks.sub_blocks.values():
        yield from (name for name in getattr(block, "block_trigger_inputs", ()) if name is not None)
        yield from _trigger_names(block)
