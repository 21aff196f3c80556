"""What runs requests that networks beside a model take part in: ControlNets, IP-Adapters.

Such requests run through diffusers' classic pipelines, cut by replay, whichever way the model itself is cut. Both share
the model's components, so its weights are in memory once. What is beside it is loaded where it computes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Protocol

import diffusers
import torch
from PIL import Image

from diffusion_worker.model import capture
from diffusion_worker.model.adapters import Adapters
from diffusion_worker.model.controls import (
    SET_BY_CONTROLS,
    ControlNet,
    arguments_of,
    check_controls,
    combined,
    led_by,
)
from diffusion_worker.model.families import OPTIONAL_NETWORKS, Controlled
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.image_encoders import extractor_for
from diffusion_worker.model.inputs import in_colour
from diffusion_worker.model.ip_adapters import IPAdapters, Shown
from diffusion_worker.model.kinds import classes_of
from diffusion_worker.model.records import pack, unpack
from diffusion_worker.model.replay import Beside, ReplayModel, Request
from diffusion_worker.model.types import InvalidRequest, Parameters, RoleModel, SchedulerKind, Values, Workflow
from diffusionpipeline.words import CONTROLS, IP_ADAPTERS

PICTURE: Final = "ip_adapter_image"
"""What pipelines call the pictures of IP-Adapters."""
_NEGATIVE: Final = f"negative_{PICTURE}"
_SET_BY_IP_ADAPTERS: Final = (PICTURE, f"{PICTURE}_embeds", _NEGATIVE, f"{_NEGATIVE}_embeds")
_ACTIVE: Final = "is_ip_adapter_active"
_LEFT_OUT: Final = OPTIONAL_NETWORKS - {"safety_checker"}
"""Of the folder's components: an image encoder that no request has a picture for. IP-Adapters have their own."""
_INPUTS: Final[Mapping[str, frozenset[str]]] = {
    "own": frozenset(),
    "image": frozenset({"image"}),
    "mask_image": frozenset({"image", "mask_image"}),
}
"""Of a request, by the kind of pipeline that it is for; of others the kind itself."""


class BaseModel(RoleModel, Protocol):
    """A model as both ways to cut one make it."""

    @property
    def folder(self) -> ModelFolder: ...

    @property
    def components(self) -> Mapping[str, Any]: ...

    @property
    def adapters(self) -> Adapters: ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """With which the base model was loaded."""

    dtype: str
    device: str
    allow_pickle: bool = False
    schedulers: Sequence[SchedulerKind] = ()
    vae_tiling: bool = False


class BesideModel(ReplayModel):
    """What runs requests with IP-Adapters, by the folder's own pipeline and its siblings."""

    def __init__(
        self,
        base: BaseModel,
        options: Options,
        ip_adapters: IPAdapters | None,
        *,
        classes: Mapping[str, Any] | None = None,
        denoisers: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        """`classes`: instead of the folder's own. `denoisers`: networks beside those of the folder."""
        self._ip_adapters = ip_adapters
        found = classes_of(base.folder) if classes is None else classes
        encoders = () if ip_adapters is None else ip_adapters.encoders
        components = {name: one for name, one in base.folder.components.items() if name not in _LEFT_OUT}
        super().__init__(
            replace(base.folder, pipeline_class=found["own"].__name__, components=components),
            stages=base.stages,
            dtype=options.dtype,
            device=options.device,
            allow_pickle=options.allow_pickle,
            schedulers=options.schedulers,
            vae_tiling=options.vae_tiling,
            beside=Beside(
                classes=found,
                components=base.components,
                adapters=base.adapters,
                denoisers=denoisers or {},
                encoders={_part(IP_ADAPTERS, str(number)): one for number, one in enumerate(encoders)},
            ),
        )
        self.workflows = tuple(
            replace(one, images=one.images | _INPUTS.get(kind, frozenset({kind})))
            for kind, one in zip(self._classes, self.workflows, strict=True)
        )

    @property
    def kinds(self) -> Sequence[str]:
        """Of its requests, in the order of `workflows`."""
        return tuple(self._classes)

    def shows(self, kind: str) -> bool:
        """Whether IP-Adapters may show pictures to requests of this kind."""
        return self._ip_adapters is not None and _takes(self._classes[kind])

    def encode(self, parameters: Parameters) -> Values:
        values = super().encode(parameters)
        if parameters.ip_adapters:
            # They have become embeddings: later roles only need to know that there were some.
            stubs = [Image.new("RGB", (1, 1))] * len(parameters.ip_adapters)
            values["call"] = pack(unpack(values["call"], self._device) | {PICTURE: stubs}, "the request")
        return values

    def _bind(self, parameters: Parameters) -> Request:
        bound = super()._bind(parameters)
        if parameters.ip_adapters and self._ip_adapters is not None:
            bound["ip_adapters"] = self._ip_adapters.used(parameters.ip_adapters)
        return bound

    def _arguments(self, pipeline_class: Any, parameters: Parameters) -> tuple[dict[str, Any], int]:
        shown = parameters.ip_adapters if self._ip_adapters is not None else ()
        call, fps = super()._arguments(pipeline_class, replace(parameters, ip_adapters=()) if shown else parameters)
        for name in _SET_BY_IP_ADAPTERS:
            if name in parameters.extra:
                raise InvalidRequest(f"{name}: is set by ip_adapters and can't be given")
        if shown and not _takes(pipeline_class):
            raise InvalidRequest(f"ip_adapters: {pipeline_class.__name__}, which is for such a request, takes none")
        if shown:
            call[PICTURE] = [in_colour(one.image) for one in shown if one.image is not None]
        if shown and _NEGATIVE in inspect.signature(pipeline_class.__call__).parameters:
            # Black, as by default; but that some of diffusers' pipelines make for one adapter alone.
            call[_NEGATIVE] = [Image.new("RGB", (8, 8))] * len(shown)
        return call, fps

    def _equip(self, pipeline: Any, parts: capture.Parts, request: Request) -> None:
        if (shown := self._shown(request)) is None:
            return
        owner, used = shown.owner, shown.used
        kind = owner.kind
        # Past the setters of torch and diffusers, which would register it. Networks of a run are its own.
        parts.denoisers[kind.component].__dict__[kind.projection] = owner.projection(used)
        if hasattr(pipeline, _ACTIVE):
            asked: Any = _asked
            pipeline.__class__ = asked(type(pipeline), active=used[0][1] > 0)
        if (encoder := owner.encoder_of(used)) is not None:
            pipeline.__dict__["image_encoder"] = encoder
            if getattr(pipeline, "feature_extractor", None) is None:
                pipeline.__dict__["feature_extractor"] = extractor_for(encoder)

    def _shown(self, request: Request) -> Shown | None:
        if not (used := request.get("ip_adapters")):
            return None
        assert self._ip_adapters is not None
        return Shown(tuple((name, scale) for name, scale in used), self._ip_adapters)


class LedModel(BesideModel):
    """What runs requests with controls: each leads by one of diffusers' led pipelines."""

    def __init__(
        self,
        base: BaseModel,
        options: Options,
        ip_adapters: IPAdapters | None,
        networks: Mapping[str, ControlNet],
    ) -> None:
        self._controlled: Controlled = led_by(base.folder)
        self._networks = networks
        super().__init__(
            base,
            options,
            ip_adapters,
            classes={kind: getattr(diffusers, name) for kind, name in self._controlled.pipelines.items()},
            denoisers={_part(CONTROLS, name): one.network for name, one in networks.items()},
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
        super()._equip(pipeline, parts, request)
        networks: list[torch.nn.Module] = [parts.denoisers[_part(CONTROLS, name)] for name in request["controls"]]
        # Past the pipeline's own __setattr__, which would register it.
        pipeline.__dict__["controlnet"] = combined(networks, self._controlled)


@cache
def _asked(pipeline_class: Any, *, active: bool) -> Any:
    """The class that says whether it has IP-Adapters, which else would look for them in its network."""
    return type(pipeline_class.__name__, (pipeline_class,), {_ACTIVE: active, "__module__": pipeline_class.__module__})


def _takes(pipeline_class: Any) -> bool:
    return PICTURE in inspect.signature(pipeline_class.__call__).parameters


def _part(kind: str, name: str) -> str:
    """The name of a network beside the folder's among a pipeline's parts, where no component has such a one."""
    return f"{kind}.{name}"
