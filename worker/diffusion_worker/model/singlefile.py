"""A file that may hold a whole model, as people trade them: what it is by its keys, and its networks, one at a time.

diffusers' own loaders know the layouts. They leave what a file lacks without values, and pass over what they have no
place for; so what reaches a network is compared with it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, DIFFUSERS_DEFAULT_PIPELINE_PATHS

from diffusion_worker.model.failures import first_of
from diffusion_worker.model.files import check_weight_files, header
from diffusion_worker.model.intact import check_keys
from diffusion_worker.model.types import UnsupportedModel

DENOISER: Final = "model.diffusion_model."
VAES: Final = ("first_stage_model.", "vae.")
AUDIO_VAES: Final = ("audio_vae.", "vocoder.")
TEXT_ENCODERS: Final = ("cond_stage_model.", "conditioner.", "text_encoders.")
CLIP: Final = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5: Final = "T5EncoderModel"
V_PREDICTION: Final = "v_pred"
"""A key by which makers say that the model predicts v."""

_ADAPTER: Final = ("lora_A.", "lora_B.", "lora_up.", "lora_down.", ".lora.", "hada_w1", "lokr_w", "dora_scale")
_CONTROLNET: Final = ("control_model.", "controlnet_cond_embedding.", "controlnet_blocks.", "input_hint_block.")
_VAE: Final = (*VAES, *AUDIO_VAES, "encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "conv1.", "conv2.")
_TEXT: Final = (
    "text_model.",
    "text_projection",
    "logit_scale",
    "shared.",
    "encoder.block.",
    "encoder.final_layer_norm.",
    "encoder.embed_tokens.",
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "lm_head.",
)
_SCALES: Final = (
    "scaled_fp8",
    "scale_weight",
    "weight_scale",
    "scale_input",
    "input_scale",
    "weight_scale_2",
    "comfy_quant",
    "absmax",
    "quant_map",
    "qweight",
    "wscales",
)
# Of the CLIP that a text encoder was taken from.
_BESIDE_CLIP: Final = ("text_projection.weight", "logit_scale")

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class SingleFile:
    """A file's tensors by the names that they have there."""

    path: Path
    tensors: Weights

    def under(self, prefixes: Collection[str]) -> dict[str, torch.Tensor]:
        """Those whose names begin so, names unchanged."""
        return {key: tensor for key, tensor in self.tensors.items() if key.startswith(tuple(prefixes))}

    @property
    def denoiser(self) -> dict[str, torch.Tensor]:
        """Of a file of all networks those of the denoiser, of a denoiser's file all."""
        own = self.under([DENOISER])
        others = self.under([*VAES, *AUDIO_VAES, *TEXT_ENCODERS])
        return own or {key: tensor for key, tensor in self.tensors.items() if key not in others}

    def configs(self) -> str:
        """The hub's repository with the configs of such a model, by diffusers' guess. Raises UnsupportedModel."""
        try:
            kind = single_file_utils.infer_diffusers_model_type(self.tensors)
        except (KeyError, IndexError, ValueError, UnboundLocalError):
            kind = ""
        # Its word for what it does not know as well.
        if kind == "v1" and CHECKPOINT_KEY_NAMES["v1"] not in self.tensors:
            kind = ""
        if not kind or "subfolder" in DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]:
            raise UnsupportedModel(
                f"{self.path}: diffusers {diffusers.__version__} can't tell of which family it is "
                f"({first_of(self.tensors)}): name the folder of a pipeline of that family with --config"
            )
        return str(DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


def read(file: Path, *, allow_pickle: bool) -> SingleFile:
    """The file, if it may hold a model or its denoiser. Raises UnsupportedModel for all else, by what it is."""
    if not file.is_file():
        raise UnsupportedModel(f"{file}: is no file" + (": a folder needs no conversion" if file.is_dir() else ""))
    if file.suffix == ".gguf":
        raise UnsupportedModel(
            f"{file}: is GGUF, quantised for other programs: take the safetensors that it was made from"
        )
    pickled = file.suffix != ".safetensors"
    if pickled and not allow_pickle:
        raise UnsupportedModel(
            f"{file}: is no .safetensors but a pickle, which may run any code: take a safetensors of it, or give "
            "--allow-pickle if you trust its maker"
        )
    check_weight_files([file])
    if not pickled:
        _check_kind(file, json.loads(header(file)).keys() - {"__metadata__"})
    try:
        tensors = single_file_utils.load_single_file_checkpoint(str(file), local_files_only=True)
        found = SingleFile(file, {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)})
    except Exception as error:
        raise UnsupportedModel(f"{file}: can't be read: {_words(error)}") from error
    _check_kind(file, found.tensors.keys())
    return found


def _check_kind(file: Path, keys: Collection[str]) -> None:
    if not keys:
        raise UnsupportedModel(f"{file}: holds no tensors: get it again")
    if any(mark in key for key in keys for mark in _ADAPTER):
        raise UnsupportedModel(
            f"{file}: is a LoRA adapter and no model: put it beside the model that it was made for, under "
            "model.adapters (docs/adapters.md)"
        )
    if scales := [key for key in keys if key.rsplit(".", 1)[-1] in _SCALES]:
        raise UnsupportedModel(
            f"{file}: its weights are quantised, with scales ({first_of(scales)}) that diffusers would leave out: take "
            "the file in bf16 or fp16"
        )
    if any(key.startswith(_CONTROLNET) for key in keys):
        raise UnsupportedModel(
            f"{file}: is a ControlNet and no model: put its diffusers folder under model.controlNets"
        )
    if all(key.startswith(_TEXT) for key in keys):
        raise UnsupportedModel(
            f"{file}: is a text encoder alone: give the file of the whole model or of its denoiser; text encoders are "
            "taken from --config"
        )
    if all(key.startswith(_VAE) for key in keys):
        raise UnsupportedModel(
            f"{file}: is a VAE alone: give the file of the whole model or of its denoiser; the VAE is taken from "
            "--config"
        )


def is_denoiser(component_class: Any) -> bool:
    """Whether diffusers has a loader of single files for a network of this class that is no VAE."""
    known = single_file_model._get_single_file_loadable_mapping_class(component_class)
    return known is not None and not known.startswith("Autoencoder")


def holds(file: SingleFile, name: str, component_class: Any) -> bool:
    """Whether the file has this component, and diffusers a loader for it."""
    if issubclass(component_class, transformers.PreTrainedModel):
        kind = component_class.__name__
        if kind in CLIP:
            return bool(single_file_utils.is_clip_model_in_single_file(component_class, file.tensors))
        return kind == T5 and bool(single_file_utils.is_t5_in_single_file(file.tensors))
    if single_file_model._get_single_file_loadable_mapping_class(component_class) is None:
        return False
    return bool(file.under(prefixes(name)) if not is_denoiser(component_class) else file.denoiser)


def load(file: SingleFile, name: str, component_class: Any, configs: Path, dtype: torch.dtype | None) -> Any:
    """One component of the file, with the config that it has in the folder `configs`.

    `dtype` None: the widest that the file has for it. Raises UnsupportedModel unless all of its tensors were in the
    file, with the shapes that the config says, and there were no others.
    """
    common: dict[str, Any] = {"config": str(configs), "subfolder": name, "local_files_only": True}
    try:
        with _compared(file.path, name, dtype):
            if not issubclass(component_class, transformers.PreTrainedModel):
                own = file.denoiser if is_denoiser(component_class) else file.under(prefixes(name))
                return component_class.from_single_file(own, **common)
            # They take from what they are given.
            common["checkpoint"] = dict(file.tensors)
            if component_class.__name__ == T5:
                network = single_file_utils.create_diffusers_t5_model_from_checkpoint(component_class, **common)
                network.tie_weights()
                return network
            return single_file_utils.create_diffusers_clip_model_from_ldm(component_class, **common)
    except UnsupportedModel:
        raise
    except Exception as error:
        # Of many kinds: the converters take for granted what a layout has.
        raise UnsupportedModel(
            f"{file.path}: diffusers can't make {name} ({component_class.__name__}) of it by the config in "
            f"{configs / name}: {_words(error)}: give the folder of a pipeline of the file's family as --config"
        ) from error


def prefixes(name: str) -> tuple[str, ...]:
    return AUDIO_VAES[:1] if name == "audio_vae" else VAES


@contextmanager
def _compared(file: Path, name: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Meanwhile diffusers' loaders fill a network only with all of its tensors, and no others."""
    fill = single_file_model.load_model_dict_into_meta

    def fill_compared(network: torch.nn.Module, weights: Weights, **options: Any) -> Any:
        due, tied = network.state_dict(), getattr(network, "_tied_weights_keys", None) or ()
        beside = _BESIDE_CLIP if type(network).__name__ in CLIP else ()
        info = {
            "missing_keys": due.keys() - weights.keys() - set(tied),
            "unexpected_keys": weights.keys() - due.keys() - set(beside),
            "mismatched_keys": [
                (key, weights[key].shape, due[key].shape)
                for key in weights.keys() & due.keys()
                if weights[key].shape != due[key].shape
            ],
        }
        check_keys(network, info, file.parent, [f"{name} of {file.name}"])
        return fill(network, weights, **{**options, "dtype": dtype or _widest(file, weights)})

    # The one function that all of its loaders end in.
    modules = (single_file_model, single_file_utils)
    try:
        for module in modules:
            module.load_model_dict_into_meta = fill_compared
        yield
    finally:
        for module in modules:
            module.load_model_dict_into_meta = fill


def _widest(file: Path, weights: Weights) -> torch.dtype:
    types = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if narrow := [str(one).removeprefix("torch.") for one in types if one.itemsize < torch.float16.itemsize]:
        raise UnsupportedModel(
            f"{file}: its weights are {first_of(narrow)}, which no role computes in: say what they become with --dtype"
        )
    if len(types) > 1:
        return torch.float32
    return next(iter(types), torch.float32)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
