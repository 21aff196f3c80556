"""A model's IP-Adapters: each shows the network a picture, by attention of its own to what an encoder makes of it.

They lie beside the network and are put in its place for one forward: requests with different ones, or none, take turns
with one network, and that one was there for another leaves no trace.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models.embeddings import MultiIPAdapterImageProjection

from diffusion_worker.model.image_encoders import check_fits, load_encoder
from diffusion_worker.model.ip_adapter_weights import Kind, State, attention_of, kind_of, projection_of, read
from diffusion_worker.model.types import InvalidRequest, IPAdapter, IPAdapterFiles, UnsupportedModel

Used = tuple[tuple[str, float], ...]
"""The IP-Adapters of one request in its order, by name, and how much each counts."""

MAX_COMPOSED: Final = 32
"""Different uses that are kept composed."""


@dataclass(frozen=True)
class Shown:
    """What one request's network is shown; equal for requests that may share a forward."""

    used: Used
    owner: IPAdapters = field(repr=False, compare=False)

    def is_for(self, network: torch.nn.Module) -> bool:
        """Whether it is this network that they show things to."""
        return network is self.owner.network

    def on(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        """Meanwhile the network computes with them."""
        return self.owner.on(network, self.used)


@dataclass(frozen=True)
class _Loaded:
    projection: torch.nn.Module
    attention: Sequence[tuple[torch.nn.Module, torch.nn.Module]]
    """Layers of the network, and what takes the place of their own; of denoisers alone."""


class IPAdapters:
    """Of one model, for the roles that it has. Used from the compute thread."""

    def __init__(
        self,
        files: Sequence[IPAdapterFiles],
        pipeline_class: Any,
        network: Any,
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
        self.kind = kind_of(pipeline_class)
        self.network = network
        if (own := network.config.get("encoder_hid_dim_type")) is not None:
            raise UnsupportedModel(
                f"model.ipAdapters: {type(network).__name__} has a projection of its own ({own}), where those of "
                "IP-Adapters would be, as Kolors' has: leave the list out"
            )
        self.scales = {one.name: one.scale for one in files}
        self._loaded: dict[str, _Loaded] = {}
        self._encoders: dict[str, torch.nn.Module] = {}
        self._composed: OrderedDict[Used, _Loaded] = OrderedDict()
        by_path: dict[Path, torch.nn.Module] = {}
        for one in files:
            if one.file is None:
                continue
            at = f"model.ipAdapters[{one.name}]"
            state = read(one.file, self.kind, f"{at}.file", allow_pickle=allow_pickle)
            loaded = _load(state, network, self.kind, one.file, f"{at}.file", computes=computes)
            if one.image_encoder is not None:
                path = one.image_encoder.resolve()
                with _named(f"{at}.imageEncoder"):
                    if path not in by_path:
                        by_path[path] = load_encoder(
                            self.kind.encoder,
                            one.image_encoder,
                            dtype=dtype,
                            device=device,
                            variant=variant,
                            allow_pickle=allow_pickle,
                        )
                    check_fits(loaded.projection, by_path[path], one)
                self._encoders[one.name] = by_path[path]
            # After it was tried on the CPU.
            for module in (loaded.projection, *(one for _, one in loaded.attention)):
                module.to(device=device, dtype=dtype)
            self._loaded[one.name] = loaded

    @property
    def encoders(self) -> Sequence[torch.nn.Module]:
        """The image encoders, each once; of encoders alone."""
        return list(dict.fromkeys(self._encoders.values()))

    def used(self, wanted: Sequence[IPAdapter]) -> list[tuple[str, float]]:
        """What a request asks for, in its order. Raises InvalidRequest, which names the adapter."""
        if len(wanted) > 1 and not self.kind.several:
            raise InvalidRequest("ip_adapters: this model is shown pictures by one at a time")
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
        if not self._loaded:
            # Of decoders, which are asked how many alone.
            return MultiIPAdapterImageProjection([torch.nn.Identity() for _ in used])
        return self._of(used).projection

    @contextmanager
    def on(self, network: torch.nn.Module, used: Used) -> Iterator[None]:
        """Meanwhile `network` computes with these."""
        composed = self._of(used)
        with ExitStack() as undo:
            for layer, attention in composed.attention:
                _put(undo, layer, "processor", attention)
            _put(undo, network, self.kind.projection, composed.projection)
            _put(undo, network.config, "encoder_hid_dim_type", "ip_image_proj")
            yield

    def _of(self, used: Used) -> _Loaded:
        """Several as one, sharing their weights."""
        if used in self._composed:
            self._composed.move_to_end(used)
            return self._composed[used]
        each = [self._loaded[name] for name, _ in used]
        projections = [one.projection for one in each]
        made = _Loaded(
            MultiIPAdapterImageProjection(projections) if self.kind.several else projections[0],
            [
                (of_layer[0][0], _joined([attention for _, attention in of_layer], [scale for _, scale in used]))
                for of_layer in zip(*(one.attention for one in each), strict=True)
            ],
        )
        self._composed[used] = made
        if len(self._composed) > MAX_COMPOSED:
            self._composed.popitem(last=False)
        return made


def _load(state: State, network: Any, kind: Kind, file: Path, at: str, *, computes: bool) -> _Loaded:
    projection = projection_of(state, network, file, at)
    attention = attention_of(state, network, kind, file, at) if computes else {}
    return _Loaded(projection, [(network.get_submodule(name), one) for name, one in attention.items()])


def _joined(parts: Sequence[Any], scales: Sequence[float]) -> torch.nn.Module:
    """One attention processor of several. (Their forward takes from each list what belongs to one adapter.)"""
    made: torch.nn.Module = copy.copy(parts[0])
    if not isinstance(parts[0].scale, list):
        # Of a family in which there is one at a time.
        made.__dict__["scale"] = scales[0]
        return made
    made.__dict__["_modules"] = {
        key: torch.nn.ModuleList([getattr(part, key)[0] for part in parts]) for key in ("to_k_ip", "to_v_ip")
    }
    made.__dict__["scale"] = list(scales)
    if hasattr(made, "num_tokens"):
        made.__dict__["num_tokens"] = [part.num_tokens[0] for part in parts]
    return made


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Names the resource's field in what is wrong with its value."""
    try:
        yield
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{field}: {error}") from error


def _put(undo: ExitStack, owner: Any, attribute: str, value: object) -> None:
    """Puts `value` in the place of an attribute until `undo` ends."""
    # Past nn.Module's __setattr__, which would register it, and take away what is registered.
    there = vars(owner)
    back = (
        partial(there.__setitem__, attribute, there[attribute]) if attribute in there else partial(there.pop, attribute)
    )
    undo.callback(back)
    there[attribute] = value
