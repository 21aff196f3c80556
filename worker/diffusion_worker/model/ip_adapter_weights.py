"""The weights of an IP-Adapter, as diffusers makes modules of them: attention beside a network's own, and a projection
of what an image encoder makes of a picture.

Diffusers loads them into a network for good. Here they stay beside it: see `ip_adapters.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin, SD3IPAdapterMixin
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection, IPAdapterFaceIDPlusImageProjection

from diffusion_worker.model.failures import told
from diffusion_worker.model.files import check_weight_files, header
from diffusion_worker.model.image_encoders import CLIP, SIGLIP
from diffusion_worker.model.intact import check_weights
from diffusion_worker.model.types import UnsupportedModel
from diffusion_worker.model.weightfiles import PICKLE_SUFFIXES

_ATTENTION: Final = ("to_k_ip", "to_v_ip")
_PROCESSOR: Final = ".processor"


@dataclass(frozen=True)
class Kind:
    """How a family of pipelines has IP-Adapters."""

    loader: Any
    """Diffusers' own."""
    component: str
    """That pictures are shown to."""
    projection: str
    """Where that has what makes its tokens of an image encoder's embeddings."""
    encoder: str
    """The class of the image encoder."""
    several: bool = True
    """Whether a request may have more than one."""


_KINDS: Final = (
    Kind(IPAdapterMixin, "unet", "encoder_hid_proj", CLIP),
    Kind(FluxIPAdapterMixin, "transformer", "encoder_hid_proj", CLIP),
    Kind(SD3IPAdapterMixin, "transformer", "image_proj", SIGLIP, several=False),
)


@dataclass(frozen=True)
class State:
    """The tensors of a file, by diffusers' names within each part."""

    image_proj: Mapping[str, torch.Tensor]
    ip_adapter: Mapping[str, torch.Tensor]


def kind_of(pipeline_class: Any) -> Kind:
    """How such a pipeline has them. Raises UnsupportedModel where it has none."""
    for kind in _KINDS:
        if issubclass(pipeline_class, kind.loader):
            return kind
    raise UnsupportedModel(
        f"model.ipAdapters: {pipeline_class.__name__} can't have any: diffusers {diffusers.__version__} has them for "
        "pipelines of Stable Diffusion, SDXL, Stable Diffusion 3 and Flux; leave the list out"
    )


def read(file: Path, kind: Kind, at: str, *, allow_pickle: bool) -> State:
    """What diffusers' own loader finds in the file. `at` is the resource's field. Raises UnsupportedModel."""
    if file.suffix in PICKLE_SUFFIXES and not allow_pickle:
        raise UnsupportedModel(
            f"{at}: {file} is a pickle that may run any code; take its .safetensors, or set model.allowPickle if you "
            "trust its maker"
        )
    if file.suffix not in PICKLE_SUFFIXES:
        check_weight_files([file])
    reader = _Reader()
    try:
        kind.loader.load_ip_adapter(
            reader, str(file.parent), subfolder="", weight_name=file.name, local_files_only=True
        )
    except Exception as error:
        raise UnsupportedModel(
            f"{at}: {file} is no IP-Adapter that diffusers {diffusers.__version__} knows ({told(error)})"
        ) from error
    state = State(reader.state.get("image_proj") or {}, reader.state.get("ip_adapter") or {})
    if not state.image_proj or not state.ip_adapter:
        raise UnsupportedModel(
            f"{at}: {file} is no IP-Adapter: it has no {'image_proj' if state.ip_adapter else 'ip_adapter'} tensors"
        )
    if any("lora" in key for key in state.ip_adapter):
        raise UnsupportedModel(f"{at}: {file} {_OF_FACES}")
    if file.suffix not in PICKLE_SUFFIXES and (lost := _left_out(file, state)):
        raise UnsupportedModel(f"{at}: {file}: diffusers has no place for {lost} of its tensors")
    return state


def projection_of(state: State, network: Any, file: Path, at: str) -> torch.nn.Module:
    """What makes the network's tokens of an image encoder's embeddings. `network` may be a shell.

    Raises UnsupportedModel.
    """
    convert = network._convert_ip_adapter_image_proj_to_diffusers
    try:
        made: torch.nn.Module = convert(dict(state.image_proj), low_cpu_mem_usage=False)
    except Exception as error:
        raise UnsupportedModel(
            f"{at}: {file}: its image_proj is none that diffusers {diffusers.__version__} knows for "
            f"{_class(network)} ({told(error)})"
        ) from error
    if isinstance(made, IPAdapterFaceIDImageProjection | IPAdapterFaceIDPlusImageProjection):
        raise UnsupportedModel(f"{at}: {file} {_OF_FACES}")
    return _finished(made, file, at)


def attention_of(state: State, network: Any, kind: Kind, file: Path, at: str) -> dict[str, torch.nn.Module]:
    """Attention to the tokens of a picture, by the name of the layer whose own it takes the place of.

    Raises UnsupportedModel where the file was made for another model.
    """
    other = f"{at}: {file} was made for another model than this {_class(network)}"
    tensors: Any = dict(state.ip_adapter)
    if kind.several:
        tensors = [{"image_proj": dict(state.image_proj), "ip_adapter": tensors}]
    try:
        made = network._convert_ip_adapter_attn_to_diffusers(tensors, low_cpu_mem_usage=False)
    except Exception as error:
        raise UnsupportedModel(f"{other}: {told(error)}") from error
    found = {
        name.removesuffix(_PROCESSOR): one for name, one in made.items() if all(hasattr(one, key) for key in _ATTENTION)
    }
    held = sum(1 for one in found.values() for _ in one.parameters())
    if held != len(state.ip_adapter):
        raise UnsupportedModel(f"{other}: of its {len(state.ip_adapter)} tensors there is a place for {held}")
    return {name: _finished(one, file, at) for name, one in found.items()}


_OF_FACES: Final = (
    "is of the FaceID kind, which is shown embeddings of faces and no pictures: take one that is shown pictures"
)


class _Reader:
    """What diffusers' loaders take for a pipeline and its network, and give the tensors to."""

    def __init__(self) -> None:
        self.state: Mapping[str, Mapping[str, torch.Tensor]] = {}
        self.unet = self.transformer = self

    def _load_ip_adapter_weights(self, states: Any, **_: Any) -> None:
        self.state = states[0] if isinstance(states, list) else states

    def _load_ip_adapter_loras(self, _states: Any) -> Mapping[str, Any]:
        return {}


def _finished(module: torch.nn.Module, file: Path, at: str) -> torch.nn.Module:
    try:
        check_weights(module, file)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{at}: {error}") from error
    return module.eval().requires_grad_(False)


def _left_out(file: Path, state: State) -> int:
    there = json.loads(header(file)).keys() - {"__metadata__"}
    return len(there) - len(state.image_proj) - len(state.ip_adapter)


def _class(network: Any) -> str:
    return type(network).__name__
