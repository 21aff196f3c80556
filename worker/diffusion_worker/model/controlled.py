"""A model with ControlNets beside it: requests with controls are led by these, all others are the model's own.

Led requests run through diffusers' led pipelines, cut by replay, whichever way the model itself is cut. Both share the
model's components, so its weights are in memory once. The networks that lead are loaded where denoising is, and are
shells elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import diffusers
import torch

from diffusion_worker.model import capture
from diffusion_worker.model.adapters import Adapters
from diffusion_worker.model.controls import (
    SET_BY_CONTROLS,
    ControlNet,
    arguments_of,
    check_controls,
    combined,
    led_by,
    open_networks,
)
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.families import OPTIONAL_NETWORKS, Controlled
from diffusion_worker.model.folder import ModelFolder, torch_dtype
from diffusion_worker.model.replay import Beside, ReplayModel, Request
from diffusion_worker.model.types import (
    ControlNetFiles,
    InvalidRequest,
    Media,
    Offered,
    Parameters,
    RoleModel,
    SchedulerKind,
    Values,
    Workflow,
)
from diffusionpipeline.words import CONTROLS, Stage

_LEFT_OUT: Final = OPTIONAL_NETWORKS - {"safety_checker"}
"""Of the folder's components: the eyes of image adapters, which no request brings pictures for."""
_INPUTS: Final[Mapping[str, frozenset[str]]] = {
    "own": frozenset(),
    "image": frozenset({"image"}),
    "mask_image": frozenset({"image", "mask_image"}),
}
"""Of a request, by the kind of led pipeline that it is for."""


class BaseModel(RoleModel, Protocol):
    """A model as both ways to cut one make it."""

    @property
    def folder(self) -> ModelFolder: ...

    @property
    def components(self) -> Mapping[str, Any]: ...

    @property
    def adapters(self) -> Adapters: ...


class ControlledModel:
    """A model that ControlNets can lead. Implements StageModel."""

    def __init__(
        self,
        base: BaseModel,
        files: Sequence[ControlNetFiles],
        *,
        dtype: str,
        device: str,
        allow_pickle: bool = False,
        schedulers: Sequence[SchedulerKind] = (),
        vae_tiling: bool = False,
    ) -> None:
        """Raises UnsupportedModel, which names the network that can't lead `base`."""
        self._base = base
        self._networks = open_networks(
            files,
            base.folder,
            whole=Stage.DENOISE in base.stages,
            dtype=torch_dtype(dtype),
            device=device,
            allow_pickle=allow_pickle,
        )
        self._led = _Led(
            base,
            self._networks,
            dtype=dtype,
            device=device,
            allow_pickle=allow_pickle,
            schedulers=schedulers,
            vae_tiling=vae_tiling,
        )
        self.stages = base.stages
        self.output = base.output
        self.way = base.way
        self.image_inputs = base.image_inputs
        self.several_inputs = base.several_inputs
        self.folder = base.folder
        self.workflows: Sequence[Workflow] = (
            *base.workflows,
            *(replace(one, images=one.images | {CONTROLS}) for one in self._led.workflows),
        )

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the components that this object holds in full, and of the ControlNets."""
        whole = self._networks if Stage.DENOISE in self.stages else ()
        return self._base.loaded | self._led.loaded | frozenset(whole)

    @property
    def schedulers_offered(self) -> Sequence[str]:
        return self._base.schedulers_offered

    def adapters_offered(self) -> list[Offered] | None:
        return self._base.adapters_offered()

    def encode(self, parameters: Parameters) -> Values:
        return (self._led if parameters.controls else self._base).encode(parameters)

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        return self._of(values).denoise(values, parameters, driver)

    def decode(self, values: Values) -> list[Media]:
        return self._of(values).decode(values)

    def _of(self, values: Values) -> RoleModel:
        return self._led if CONTROLS in values else self._base


class _Led(ReplayModel):
    """What runs requests with controls, and nothing else."""

    def __init__(
        self,
        base: BaseModel,
        networks: Mapping[str, ControlNet],
        *,
        dtype: str,
        device: str,
        allow_pickle: bool,
        schedulers: Sequence[SchedulerKind],
        vae_tiling: bool,
    ) -> None:
        self._controlled: Controlled = led_by(base.folder)
        self._networks = networks
        classes = {kind: getattr(diffusers, name) for kind, name in self._controlled.pipelines.items()}
        components = {name: one for name, one in base.folder.components.items() if name not in _LEFT_OUT}
        super().__init__(
            replace(base.folder, pipeline_class=classes["own"].__name__, components=components),
            stages=base.stages,
            dtype=dtype,
            device=device,
            allow_pickle=allow_pickle,
            schedulers=schedulers,
            vae_tiling=vae_tiling,
            beside=Beside(
                classes=classes,
                components=base.components,
                adapters=base.adapters,
                denoisers={_part(name): one.network for name, one in networks.items()},
            ),
        )
        self.workflows = tuple(
            Workflow(images=_INPUTS[kind], encoding_reads=None, resumable=True) for kind in self._classes
        )

    def _kind(self, parameters: Parameters) -> str:
        kinds = {_INPUTS[kind]: kind for kind in self._classes}
        given = frozenset(parameters.images)
        if given not in kinds:
            taken = " or ".join(sorted(" and ".join(sorted(one)) for one in kinds if one)) or "no other picture"
            raise InvalidRequest(f"{', '.join(sorted(given))}: beside controls this model takes {taken}")
        return kinds[given]

    def _bind(self, parameters: Parameters) -> Request:
        check_controls(parameters.controls, self._networks, self._controlled)
        return {**super()._bind(parameters), "controls": [control.name for control in parameters.controls]}

    def _arguments(self, pipeline_class: Any, parameters: Parameters) -> tuple[dict[str, Any], int]:
        for name in SET_BY_CONTROLS:
            if name in parameters.extra:
                raise InvalidRequest(f"{name}: is set by controls and can't be given")
        call, fps = super()._arguments(pipeline_class, replace(parameters, controls=()))
        if "guidance_scale" in call:
            call[self._controlled.guided_by] = call.pop("guidance_scale")
        return call | arguments_of(parameters.controls, self._networks, pipeline_class), fps

    def _equip(self, pipeline: Any, parts: capture.Parts, request: Request) -> None:
        networks: list[torch.nn.Module] = [parts.denoisers[_part(name)] for name in request["controls"]]
        # Past the pipeline's own __setattr__, which would register it.
        pipeline.__dict__["controlnet"] = combined(networks, self._controlled)


def _part(name: str) -> str:
    """A ControlNet's name among a pipeline's parts, where no component has such a one."""
    return f"{CONTROLS}.{name}"
