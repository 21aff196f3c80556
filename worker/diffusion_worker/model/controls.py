"""The ControlNets beside a model: which can lead it, and what a request's controls mean to diffusers' led pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import diffusers
import torch

from diffusion_worker.model.component_files import CONFIG_FILE
from diffusion_worker.model.families import CONTROLLED, Controlled
from diffusion_worker.model.files import read_json
from diffusion_worker.model.folder import ModelFolder, load_component
from diffusion_worker.model.inputs import scaled
from diffusion_worker.model.shells import make_shell
from diffusion_worker.model.types import Control, ControlNetFiles, InvalidRequest, UnsupportedModel

MODE: Final = "control_mode"
SET_BY_CONTROLS: Final = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end", MODE)
_LEADING: Final = ("transformer", "unet")


@dataclass(frozen=True)
class ControlNet:
    """One, with or without its weights."""

    name: str
    scale: float
    config: Mapping[str, Any]
    network: torch.nn.Module


def led_by(folder: ModelFolder) -> Controlled:
    """How the folder's pipeline is led. Raises UnsupportedModel where it can't be."""
    found = CONTROLLED.get(folder.pipeline_class)
    if found is None:
        raise UnsupportedModel(
            f"model.controlNets: {folder.pipeline_class} can't have any; these can: {', '.join(sorted(CONTROLLED))}. "
            "Leave the list out, or serve a folder that has its ControlNet in it"
        )
    return found


def open_networks(
    files: Sequence[ControlNetFiles],
    folder: ModelFolder,
    *,
    whole: bool,
    dtype: torch.dtype,
    device: str,
    allow_pickle: bool,
) -> dict[str, ControlNet]:
    """All of them by name: with weights if `whole`, else as shells. Raises UnsupportedModel, which names the first that
    can't lead the folder's model."""
    led = led_by(folder)
    leads = next(name for name in _LEADING if name in folder.components)
    leads_config = read_json(folder.component_path(leads) / CONFIG_FILE)
    made: dict[str, ControlNet] = {}
    for one in files:
        at = f"model.controlNets[{one.name}]"
        config = _config(one, at)
        _check(config, leads_config, led, f"{at}: {one.path}", f"{folder.pipeline_class}'s {leads}")
        # A folder of one component, which is the network's own.
        alone = ModelFolder(
            one.path.parent, "", {one.path.name: ("diffusers", led.network)}, {}, variant=folder.variant
        )
        try:
            if whole:
                alone.weights(one.path.name, allow_pickle=allow_pickle)
                network = load_component(alone, one.path.name, dtype=dtype, device=device, allow_pickle=allow_pickle)
            else:
                network = make_shell(alone, one.path.name, dtype=dtype, device=device)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{at}: {error}") from error
        made[one.name] = ControlNet(one.name, one.scale, config, network)
    return made


def check_controls(controls: Sequence[Control], networks: Mapping[str, ControlNet], led: Controlled) -> None:
    """Raises InvalidRequest, which names the control, unless these networks can lead a request together."""
    for index, control in enumerate(controls):
        at = f"controls[{index}]"
        if control.name not in networks:
            raise InvalidRequest(
                f"{at}.name: there is no ControlNet {control.name!r}; there are: {', '.join(sorted(networks))}"
            )
        if control.image is None:
            raise InvalidRequest(f"{at}.image: needed, but not in the request")
        if not 0 <= control.start < control.end <= 1:
            raise InvalidRequest(f"{at}.start: must be below its end, both from 0 to 1")
        _check_mode(control, networks[control.name], at)
    names = list(dict.fromkeys(control.name for control in controls))
    if led.one_at_a_time and len(names) > 1:
        raise InvalidRequest(
            f"controls: {' and '.join(names)}: several pictures are for one ControlNet alone with this model"
        )
    first = networks[names[0]]
    for name in names[1:]:
        other = [key for key in led.together if first.config.get(key) != networks[name].config.get(key)]
        if other:
            raise InvalidRequest(f"controls: {names[0]} and {name} can't lead together: they differ in {other[0]}")


def arguments_of(
    controls: Sequence[Control], networks: Mapping[str, ControlNet], pipeline_class: Any
) -> dict[str, object]:
    """What the led pipeline is called with: one value for one control, lists for several."""
    taken = inspect.signature(pipeline_class.__call__).parameters
    pictures = [control.image for control in controls if control.image is not None]
    columns: dict[str, list[Any]] = {
        # Pictures of other sizes are refused by some of these pipelines, and by others only in the first step.
        "control_image" if "control_image" in taken else "image": scaled(pictures, pictures[0].size),
        "controlnet_conditioning_scale": [
            float(networks[one.name].scale if one.scale is None else one.scale) for one in controls
        ],
        "control_guidance_start": [float(one.start) for one in controls],
        "control_guidance_end": [float(one.end) for one in controls],
    }
    if MODE in taken:
        columns[MODE] = [one.mode for one in controls]
    return {name: values[0] if len(values) == 1 else values for name, values in columns.items()}


def combined(networks: Sequence[torch.nn.Module], led: Controlled) -> torch.nn.Module:
    """What a led pipeline takes for its ControlNet: one, or those of a request in its order."""
    if len(networks) == 1:
        return networks[0]
    made: torch.nn.Module = _several(led.several)(networks[:1] if led.one_at_a_time else list(networks))
    return made.eval()


@cache
def _several(name: str) -> Any:
    """The class that makes one network of several, and is where the first says that it is: that may be a shell."""
    several = getattr(diffusers, name)
    first = {name: property(partial(_of_first, name)) for name in ("device", "dtype")}
    return type(name, (several,), {**first, "__module__": several.__module__})


def _of_first(name: str, several: Any) -> Any:
    return getattr(several.nets[0], name)


def _config(one: ControlNetFiles, at: str) -> Mapping[str, Any]:
    file = one.path / CONFIG_FILE
    if not file.is_file():
        raise UnsupportedModel(f"{at}: {one.path} has no {CONFIG_FILE}: name the folder of a ControlNet by diffusers")
    return read_json(file)


def _check(config: Mapping[str, Any], leads: Mapping[str, Any], led: Controlled, at: str, what: str) -> None:
    named = config.get("_class_name")
    if named != led.network:
        raise UnsupportedModel(f"{at}: it is of class {named}, and {what} is led by {led.network} alone")
    for key, (value, why) in led.served.items():
        if config.get(key, value) != value:
            raise UnsupportedModel(f"{at}: its {key} is {config[key]}: {why}, which is not served beside a base model")
    for key in led.alike:
        if key in config and key in leads and config[key] != leads[key] and config[key] is not None:
            raise UnsupportedModel(
                f"{at}: its {key} is {config[key]}, and that of {what} {leads[key]}: it was made for another model; "
                "name one that was made for this"
            )


def _check_mode(control: Control, network: ControlNet, at: str) -> None:
    modes = network.config.get("num_mode")
    if modes is None and control.mode is not None:
        raise InvalidRequest(f"{at}.mode: {control.name} is for one kind of picture: leave it out")
    if modes is not None and (control.mode is None or not 0 <= control.mode < modes):
        raise InvalidRequest(f"{at}.mode: {control.name} is for several kinds of pictures: say which, 0 to {modes - 1}")
