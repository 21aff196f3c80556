"""A model's IP-Adapters: each shows the network a picture, by attention of its own to what an encoder makes of it.

They lie beside the network and are put in its place for one forward: requests with different ones, or none, take turns
with one network, and that one was there for another leaves no trace.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from transformers import CLIPImageProcessor

from diffusion_worker.model.failures import told
from diffusion_worker.model.files import read_json
from diffusion_worker.model.folder import ModelFolder, load_component
from diffusion_worker.model.ip_adapter_weights import State, attention_of, loaded_into, projection_of, read
from diffusion_worker.model.types import InvalidRequest, IPAdapter, IPAdapterFiles, UnsupportedModel

Used = tuple[tuple[str, float], ...]
"""The IP-Adapters of one request in its order, by name, and how much each counts."""

MAX_COMPOSED: Final = 32
"""Different uses that are kept composed."""
_ENCODER: Final = ("transformers", "CLIPVisionModelWithProjection")


@dataclass(frozen=True)
class Shown:
    """What one request's network is shown; equal for requests that may share a forward."""

    used: Used
    owner: IPAdapters = field(repr=False, compare=False)

    def is_for(self, network: torch.nn.Module) -> bool:
        """Whether it is this network that they show things to."""
        return network is self.owner.network

    @contextmanager
    def on(self, network: torch.nn.Module) -> Iterator[None]:
        """Meanwhile the network computes with them."""
        with self.owner.on(network, self.used):
            yield


@dataclass(frozen=True)
class _Loaded:
    projection: torch.nn.Module
    attention: Mapping[str, torch.nn.Module]
    """By layer; of denoisers alone."""


class IPAdapters:
    """Of one model, for the roles that it has. Used from the compute thread."""

    def __init__(
        self,
        files: Sequence[IPAdapterFiles],
        pipeline_class: Any,
        network: torch.nn.Module,
        *,
        computes: bool,
        dtype: torch.dtype,
        device: str,
        variant: str,
        allow_pickle: bool,
    ) -> None:
        """`network`: whole if it `computes`, else a shell.

        Raises UnsupportedModel, which names the first that was not made for it.
        """
        self.network = network
        self.scales = {one.name: one.scale for one in files}
        self._loaded: dict[str, _Loaded] = {}
        self._encoders: dict[str, torch.nn.Module] = {}
        self._composed: OrderedDict[Used, _Loaded] = OrderedDict()
        by_path: dict[Path, torch.nn.Module] = {}
        for one in files:
            if one.file is None:
                continue
            at = f"model.ipAdapters[{one.name}]"
            state = read(one.file, pipeline_class, f"{at}.file", allow_pickle=allow_pickle)
            loaded = _load(state, network, one.file, f"{at}.file", computes=computes)
            if one.image_encoder is not None:
                path = one.image_encoder.resolve()
                if path not in by_path:
                    by_path[path] = _load_encoder(
                        one.image_encoder, f"{at}.imageEncoder", dtype, device, variant, allow_pickle=allow_pickle
                    )
                _check_fits(loaded.projection, by_path[path], one, at)
                self._encoders[one.name] = by_path[path]
            # After it was tried on the CPU.
            for module in (loaded.projection, *loaded.attention.values()):
                module.to(device=device, dtype=dtype)
            self._loaded[one.name] = loaded

    @property
    def encoders(self) -> Mapping[str, torch.nn.Module]:
        """The image encoders by the name of the adapter that they are for; of encoders alone."""
        return self._encoders

    def used(self, wanted: Sequence[IPAdapter]) -> list[tuple[str, float]]:
        """What a request asks for, in its order. Raises InvalidRequest, which names the adapter."""
        used = []
        for index, one in enumerate(wanted):
            at = f"ip_adapters[{index}]"
            if one.name not in self.scales:
                raise InvalidRequest(
                    f"{at}.name: there is no IP-Adapter {one.name!r}; there are: {', '.join(sorted(self.scales))}"
                )
            if one.image is None:
                raise InvalidRequest(f"{at}.image: needed, but not in the request")
            used.append((one.name, float(self.scales[one.name] if one.scale is None else one.scale)))
        encoders = {id(self._encoders[name]): name for name, _ in used}
        if len(encoders) > 1:
            raise InvalidRequest(
                f"ip_adapters: {' and '.join(encoders.values())} have different image encoders, and can't be used "
                "together"
            )
        return used

    def encoder_of(self, used: Used) -> torch.nn.Module | None:
        """The one that looks at the pictures of a request; None: this role does not encode."""
        return self._encoders.get(used[0][0])

    def projection(self, used: Used) -> torch.nn.Module:
        """What a pipeline asks its network about: how many there are, and which embeddings they want."""
        if any(name not in self._loaded for name, _ in used):
            # Of decoders: they are asked how many alone.
            return MultiIPAdapterImageProjection([torch.nn.Identity() for _ in used])
        return self._of(used).projection

    @contextmanager
    def on(self, network: torch.nn.Module, used: Used) -> Iterator[None]:
        """Meanwhile `network` computes with these."""
        composed = self._of(used)
        with ExitStack() as undo:
            for name, attention in composed.attention.items():
                _put(undo, network.get_submodule(name), "processor", attention)
            own = getattr(network, "encoder_hid_proj", None)
            if own is not None:
                # Kolors' own, of its text: where diffusers looks for it when there are IP-Adapters.
                _put(undo, network, "text_encoder_hid_proj", own)
            _put(undo, network, "encoder_hid_proj", composed.projection)
            _put(undo, network.config, "encoder_hid_dim_type", "ip_image_proj")
            yield

    def _of(self, used: Used) -> _Loaded:
        """Several as one, sharing their weights."""
        if used in self._composed:
            self._composed.move_to_end(used)
            return self._composed[used]
        each = [self._loaded[name] for name, _ in used]
        made = _Loaded(
            MultiIPAdapterImageProjection([one.projection for one in each]),
            {
                name: _joined([one.attention[name] for one in each], [scale for _, scale in used])
                for name in each[0].attention
            },
        )
        self._composed[used] = made
        if len(self._composed) > MAX_COMPOSED:
            self._composed.popitem(last=False)
        return made


def shown_to(pipeline_class: Any) -> str:
    """The component that IP-Adapters show pictures to. Raises UnsupportedModel where there is none."""
    network = loaded_into(pipeline_class)
    if network is None:
        raise UnsupportedModel(
            f"model.ipAdapters: {pipeline_class.__name__} can't have any: diffusers' loaders know them for pipelines "
            "with a UNet of Stable Diffusion's kind, and for Flux; leave the list out"
        )
    return network


def extractor_for(encoder: Any) -> CLIPImageProcessor:
    """What makes pictures into an encoder's input where the folder has none: as diffusers' own loader makes it."""
    size = encoder.config.image_size
    return CLIPImageProcessor(size=size, crop_size=size)


def _load(state: State, network: torch.nn.Module, file: Path, at: str, *, computes: bool) -> _Loaded:
    projection = projection_of(state, network, file, at)
    return _Loaded(projection, attention_of(state, network, file, at) if computes else {})


def _load_encoder(
    path: Path, at: str, dtype: torch.dtype, device: str, variant: str, *, allow_pickle: bool
) -> torch.nn.Module:
    # A folder of one component, which is the encoder.
    alone = ModelFolder(path.parent, "", {path.name: _ENCODER}, {}, variant=variant)
    try:
        if (kind := read_json(path / "config.json").get("model_type")) != "clip_vision_model":
            raise UnsupportedModel(f"{path}: it is a {kind}, and IP-Adapters are shown pictures by a clip_vision_model")
        alone.weights(path.name, allow_pickle=allow_pickle)
        made: torch.nn.Module = load_component(alone, path.name, dtype=dtype, device=device, allow_pickle=allow_pickle)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{at}: {error}") from error
    return made


def _check_fits(projection: torch.nn.Module, encoder: Any, one: IPAdapterFiles, at: str) -> None:
    config = encoder.config
    patches = (config.image_size // config.patch_size) ** 2 + 1
    of_one = isinstance(projection, ImageProjection)
    embedding = (1, config.projection_dim) if of_one else (1, patches, config.hidden_size)
    try:
        with torch.no_grad():
            projection(torch.zeros(embedding))
    except Exception as error:
        raise UnsupportedModel(
            f"{at}.imageEncoder: {one.image_encoder} is not the encoder that {one.file} was trained with: name that "
            f"({told(error)})"
        ) from error


def _joined(parts: Sequence[Any], scales: Sequence[float]) -> torch.nn.Module:
    """One attention processor of several. (Their forward takes from each list what belongs to one adapter.)"""
    made: torch.nn.Module = copy.copy(parts[0])
    made.__dict__["_modules"] = {
        key: torch.nn.ModuleList([getattr(part, key)[0] for part in parts]) for key in ("to_k_ip", "to_v_ip")
    }
    made.__dict__["scale"] = list(scales)
    if hasattr(made, "num_tokens"):
        made.__dict__["num_tokens"] = [part.num_tokens[0] for part in parts]
    return made


def _put(undo: ExitStack, owner: Any, attribute: str, value: object) -> None:
    """Puts `value` in the place of an attribute until `undo` ends."""
    # Past nn.Module's __setattr__, which would register it, and take away what is registered.
    there = vars(owner)
    back = (
        partial(there.__setitem__, attribute, there[attribute]) if attribute in there else partial(there.pop, attribute)
    )
    undo.callback(back)
    there[attribute] = value
