"""One file of LoRA weights, loaded beside the weights of a model by diffusers' own loaders.

Those leave out what they have no place for, and widen a network to what a file asks for. Both look like an adapter that
works, so the file is compared with the networks before they are touched, and what was loaded with the file after.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from transformers import PreTrainedModel

from diffusion_worker.model.failures import first_of
from diffusion_worker.model.files import check_weight_files, header
from diffusion_worker.model.folder import LORA_FILE
from diffusion_worker.model.intact import check_made
from diffusion_worker.model.types import ModelError, UnsupportedModel

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"

Networks = Mapping[str, torch.nn.Module]
"""By the names of a pipeline's components."""


@dataclass(frozen=True)
class Contents:
    """A file's tensors as diffusers names them: by component, then as in that component's class."""

    tensors: Mapping[str, torch.Tensor]
    others: tuple[Any, ...]
    """What a loader is told besides: alphas, where its class of pipelines knows them, and the file's metadata."""

    @property
    def options(self) -> dict[str, Any]:
        """The same by name; None where there is nothing to tell."""
        alphas = self.others[0] if len(self.others) > 1 else None
        return {"network_alphas": alphas or None, "metadata": self.others[-1] or None}

    @property
    def components(self) -> frozenset[str]:
        """That it has tensors for."""
        return frozenset(key.split(".")[0] for key in self.tensors)

    def of(self, components: Collection[str]) -> dict[str, torch.Tensor]:
        """The tensors for these."""
        return {key: tensor for key, tensor in self.tensors.items() if key.split(".")[0] in components}


class Loader:
    """Loads files for pipelines of one class. Raises UnsupportedModel, in words that name the file."""

    def __init__(self, pipeline: str) -> None:
        owner = getattr(diffusers, pipeline)
        own = [one for one in inspect.getmro(owner) if issubclass(one, LoraBaseMixin)]
        mixins: list[Any] = [one for one in own if not issubclass(one, DiffusionPipeline) and one is not LoraBaseMixin]
        if not mixins:
            raise UnsupportedModel(f"model.adapters: diffusers {diffusers.__version__} loads no LoRA into {pipeline}")
        self._pipeline = pipeline
        self._mixin = mixins[0]
        self.components: frozenset[str] = frozenset(self._mixin._lora_loadable_modules)
        """That can have adapters."""

    def read(self, file: Path) -> Contents:
        """What the file holds for these pipelines."""
        check_weight_files([file])
        if dora := sorted(key for key in json.loads(header(file)) if "dora_scale" in key):
            raise UnsupportedModel(
                f"{file}: is DoRA ({first_of(dora)}), of which diffusers would leave out the scales: take one that is "
                "plain LoRA"
            )
        options: dict[str, Any] = {"return_lora_metadata": True, "use_safetensors": True, "local_files_only": True}
        if "return_alphas" in inspect.getsource(self._mixin.lora_state_dict):
            options["return_alphas"] = True
        try:
            found = self._mixin.lora_state_dict(str(file), **options)
        except Exception as error:
            raise UnsupportedModel(
                f"{file}: holds no LoRA that diffusers {diffusers.__version__} knows for {self._pipeline} "
                f"({_one_line(error)}): is it made for another model?"
            ) from error
        tensors, *others = found
        contents = Contents(tensors, tuple(others))
        self._check_contents(file, contents)
        return contents

    def load(self, contents: Contents, file: Path, networks: Networks, name: str) -> None:
        """Loads what the file has for these networks, as `name`, which none of them has yet."""
        mine = contents.of(networks.keys())
        placed = {component: _by_layer(mine, component, networks[component]) for component in networks}
        for component, layers in placed.items():
            _check_places(file, component, networks[component], layers)
        try:
            self._load(contents, mine, networks, name)
        except Exception as error:
            drop(networks.values(), name)
            raise UnsupportedModel(f"{file}: diffusers can't load it: {_one_line(error)}") from error
        for component, layers in placed.items():
            there = _layers_with(networks[component], name)
            if lost := sorted(layers.keys() - there):
                drop(networks.values(), name)
                raise UnsupportedModel(
                    f"{file}: {component} ({type(networks[component]).__name__}) has no place for {first_of(lost)}"
                )

    def _load(self, contents: Contents, mine: dict[str, torch.Tensor], networks: Networks, name: str) -> None:
        texts = {one for one, network in networks.items() if isinstance(network, PreTrainedModel)}
        others = networks.keys() - texts
        if rest := {key: tensor for key, tensor in mine.items() if key.split(".")[0] in others}:
            _carrier(self._mixin, networks, rest, contents).load_lora_weights("", adapter_name=name)
        taken = inspect.signature(self._mixin.load_lora_into_text_encoder).parameters if texts else {}
        for component in sorted(texts):
            text = {key: tensor for key, tensor in mine.items() if key.split(".")[0] == component}
            if text:
                self._mixin.load_lora_into_text_encoder(
                    text,
                    text_encoder=networks[component],
                    prefix=component,
                    adapter_name=name,
                    **{option: value for option, value in contents.options.items() if option in taken},
                )

    def _check_contents(self, file: Path, contents: Contents) -> None:
        check = UnsupportedModel
        if not contents.tensors:
            raise check(f"{file}: holds nothing that diffusers {diffusers.__version__} loads into {self._pipeline}")
        strange = sorted(key for key in contents.tensors if key.split(".")[0] not in self.components)
        if strange:
            raise check(
                f"{file}: diffusers has no place for {first_of(strange)} in {self._pipeline}; it loads LoRA into "
                f"{', '.join(sorted(self.components))}"
            )
        if more := sorted(key for key in contents.tensors if "lora" not in key):
            raise check(f"{file}: holds more than LoRA ({first_of(more)}), which would change the model itself")
        try:
            check_made(dict(contents.tensors), str(file))
        except ModelError as error:
            raise check(str(error)) from error


def find_file(place: Path, file: str = "") -> Path:
    """The weights in a folder, or the file that `place` is. Raises UnsupportedModel."""
    if place.is_file() or (place.is_symlink() and not place.is_dir()):
        found = place
    elif not place.is_dir():
        raise UnsupportedModel(f"{place}: there is no such file or folder")
    elif file:
        found = place / file
    else:
        there = sorted(one.name for one in place.glob("*.safetensors"))
        if LORA_FILE not in there and len(there) != 1:
            text = f"{first_of(there)}: say in `file` which" if there else "no safetensors file"
            raise UnsupportedModel(f"{place}: has {text}")
        found = place / (LORA_FILE if LORA_FILE in there else there[0])
    if found.suffix != ".safetensors":
        raise UnsupportedModel(f"{found}: adapters are read from safetensors files alone, which can run no code")
    return found


def drop(networks: Collection[torch.nn.Module], name: str) -> None:
    """Takes `name` out of the networks that have it."""
    for network in networks:
        config: dict[str, object] = getattr(network, "peft_config", {})
        for layer in tuner_layers(network):
            if name in layer.scaling:
                layer.delete_adapter(name)
        config.pop(name, None)


def tuner_layers(network: torch.nn.Module) -> list[Any]:
    """Layers that adapters were loaded beside."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _carrier(mixin: Any, networks: Networks, tensors: Mapping[str, torch.Tensor], contents: Contents) -> Any:
    """What a mixin's loader takes for a pipeline: one of these networks alone, for which the file holds `tensors`.

    The file was read already, and what it holds for other roles' networks is theirs to load.
    """
    read = (dict(tensors), *contents.others)
    networks_of = {component: networks.get(component) for component in mixin._lora_loadable_modules}
    members = {
        **networks_of,
        "components": networks_of,
        "hf_device_map": None,
        "lora_state_dict": classmethod(lambda _cls, *_args, **_options: read),
    }
    return type("Carrier", (mixin,), members)()


def _by_layer(
    tensors: Mapping[str, torch.Tensor], component: str, network: torch.nn.Module
) -> dict[str, dict[str, torch.Tensor]]:
    """Each layer's tensors, by what they are called in PEFT."""
    own = {key.removeprefix(f"{component}."): one for key, one in tensors.items() if key.startswith(f"{component}.")}
    if isinstance(network, PreTrainedModel):
        own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
        if not hasattr(network, "text_model"):
            own = {key.removeprefix("text_model."): one for key, one in own.items()}
    elif own and "lora_A" not in next(iter(own)):
        own = convert_unet_state_dict_to_peft(own)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in own.items():
        for end in (_DOWN, _UP):
            if key.endswith(end):
                layers.setdefault(key.removesuffix(end), {})[end] = tensor
    return layers


def _check_places(
    file: Path, component: str, network: torch.nn.Module, layers: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Raises UnsupportedModel unless each layer of the file is one of the network's, and of its size."""
    there = dict(network.named_modules())
    where = f"{file}: {component} ({type(network).__name__})"
    if lost := sorted(name for name in layers if name not in there):
        raise UnsupportedModel(f"{where} has no layer {first_of(lost)}: the adapter is made for another model")
    for name, tensors in layers.items():
        weight = getattr(getattr(there[name], "base_layer", there[name]), "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            raise UnsupportedModel(f"{where}: {name} is no layer that LoRA can be added to")
        down, up = tensors.get(_DOWN), tensors.get(_UP)
        if down is None or up is None:
            raise UnsupportedModel(f"{where}: of {name} the file holds but one of two halves: get it again")
        made_for = (up.shape[0], down.shape[1])
        if made_for != (weight.shape[0], weight.shape[1]):
            raise UnsupportedModel(
                f"{where}: {name} is {list(weight.shape[:2])}, and the adapter is made for {list(made_for)}: it is "
                "made for another model"
            )


def _layers_with(network: torch.nn.Module, name: str) -> set[str]:
    """Layers that hold an adapter of this name, with real weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: dict[str, Any] = {p: one for p, one in network.named_modules() if isinstance(one, BaseTunerLayer)}
    return {
        path
        for path, layer in layers.items()
        if name in layer.scaling
        if not any(weight.is_meta for key, weight in layer.named_parameters() if f".{name}." in key)
    }


def _one_line(error: Exception) -> str:
    text = str(error).split("\n")[0].rstrip(".")
    return text[:300] or type(error).__name__
