"""A model with networks beside it: requests that name some run with these, all others are the model's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from diffusion_worker.model.beside import BaseModel, BesideModel, LedModel, Options
from diffusion_worker.model.controls import ControlNet, open_networks
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.folder import torch_dtype
from diffusion_worker.model.ip_adapter_weights import kind_of
from diffusion_worker.model.ip_adapters import IPAdapters
from diffusion_worker.model.kinds import classes_of
from diffusion_worker.model.types import (
    ControlNetFiles,
    IPAdapterFiles,
    Media,
    Offered,
    Parameters,
    RoleModel,
    Values,
    Workflow,
)
from diffusionpipeline.words import CONTROLS, IP_ADAPTERS, Stage


class ExtendedModel:
    """A model that ControlNets can lead, or IP-Adapters show pictures. Implements StageModel."""

    def __init__(
        self,
        base: BaseModel,
        options: Options,
        *,
        control_nets: Sequence[ControlNetFiles] = (),
        ip_adapters: Sequence[IPAdapterFiles] = (),
    ) -> None:
        """Raises UnsupportedModel, which names the network that can't be beside `base`."""
        self._base = base
        shown = _open_ip_adapters(base, options, ip_adapters) if ip_adapters else None
        self._networks: dict[str, ControlNet] = {}
        self._shown = BesideModel(base, options, shown) if shown is not None else None
        self._led: LedModel | None = None
        if control_nets:
            self._networks = open_networks(
                control_nets,
                base.folder,
                whole=Stage.DENOISE in base.stages,
                dtype=torch_dtype(options.dtype),
                device=options.device,
                allow_pickle=options.allow_pickle,
            )
            self._led = LedModel(base, options, shown, self._networks)
        self.stages = base.stages
        self.output = base.output
        self.way = base.way
        self.image_inputs = base.image_inputs
        self.several_inputs = base.several_inputs
        self.folder = base.folder
        self.workflows: Sequence[Workflow] = (*base.workflows, *self._others())

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the components that this object holds in full, and of the ControlNets."""
        whole = self._networks if Stage.DENOISE in self.stages else ()
        others = [one.loaded for one in (self._shown, self._led) if one is not None]
        return self._base.loaded.union(whole, *others)

    @property
    def schedulers_offered(self) -> Sequence[str]:
        return self._base.schedulers_offered

    def adapters_offered(self) -> list[Offered] | None:
        return self._base.adapters_offered()

    def encode(self, parameters: Parameters) -> Values:
        names = {CONTROLS} if parameters.controls else set()
        return self._of(names | ({IP_ADAPTERS} if parameters.ip_adapters else set())).encode(parameters)

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        return self._of(values.keys()).denoise(values, parameters, driver)

    def decode(self, values: Values) -> list[Media]:
        return self._of(values.keys()).decode(values)

    def _of(self, names: Collection[str]) -> RoleModel:
        """Who runs a request, by what it names; who runs none such refuses it."""
        if CONTROLS in names and self._led is not None:
            return self._led
        if IP_ADAPTERS in names and self._shown is not None:
            return self._shown
        return self._base

    def _others(self) -> list[Workflow]:
        """The uses of requests that name some."""
        found: list[Workflow] = []
        for model, names in ((self._shown, frozenset[str]()), (self._led, frozenset({CONTROLS}))):
            if model is None:
                continue
            for kind, one in zip(model.kinds, model.workflows, strict=True):
                if names:
                    found.append(replace(one, images=one.images | names))
                if model.shows(kind):
                    found.append(replace(one, images=one.images | names | {IP_ADAPTERS}))
        return found


def _open_ip_adapters(base: BaseModel, options: Options, files: Sequence[IPAdapterFiles]) -> IPAdapters:
    own = classes_of(base.folder)["own"]
    return IPAdapters(
        files,
        own,
        base.components[kind_of(own).component],
        computes=Stage.DENOISE in base.stages,
        dtype=torch_dtype(options.dtype),
        device=options.device,
        variant=base.folder.variant,
        allow_pickle=options.allow_pickle,
    )
