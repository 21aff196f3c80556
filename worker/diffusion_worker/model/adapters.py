"""A model's LoRA adapters: which there are, which are loaded, and whose turn it is.

An adapter lies beside a network's own weights and is switched on for a forward, so one network serves requests with
different adapters in turn; that it was on for another leaves no trace. Those that the resource lists are loaded at the
start and stay. Those of a folder are loaded when a request first wants them, and as many stay as there is room for, the
least recently used going first: one that is wanted again in the middle of a denoising is loaded again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from diffusion_worker.model.lora import Loader, drop, find_file, tuner_layers
from diffusion_worker.model.types import (
    AdapterFile,
    AdapterFiles,
    InvalidRequest,
    Offered,
    UnsupportedModel,
    Wanted,
)
from diffusionpipeline.words import ADAPTER_NAME

MAX_OFFERED: Final = 1000
"""Of a folder's adapters."""


@dataclass(slots=True)
class _Adapter:
    file: AdapterFile
    listed: bool
    loaded_as: str = ""
    """PEFT allows no dots in names, so it is told others. Empty: not loaded."""
    load_seconds: float = 0.0
    bytes: int = 0
    loads: int = 0
    components: frozenset[str] = frozenset()
    """That the file has tensors for, once it was read."""


@dataclass(frozen=True)
class Chosen:
    """The adapters of one request, in its order; equal for requests that may share a forward."""

    adapters: tuple[tuple[str, float], ...]
    owner: Adapters = field(repr=False, compare=False)

    def activate(self, network: torch.nn.Module) -> None:
        """From now on the network computes with these, and no others."""
        self.owner.activate(network, self.adapters)


class Adapters:
    """Of the components that one model object holds in full. Used from the compute thread, but for `offered`."""

    def __init__(self, pipeline: str, components: Mapping[str, Any], files: AdapterFiles) -> None:
        """`components`: those held in full. Loads the listed ones. Raises UnsupportedModel."""
        self._folder = files.folder
        self._max_loaded = files.max_loaded
        self._known: dict[str, _Adapter] = {}
        # Least recently used first.
        self._loaded: dict[str, _Adapter] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._active: dict[int, tuple[tuple[str, float], ...]] = {}
        self._layers: dict[int, list[Any]] = {}
        self._loader = Loader(pipeline) if files.listed or files.folder else None
        able = self._loader.components if self._loader else frozenset()
        self._networks = {name: components[name] for name in sorted(able & components.keys())}
        for file in files.listed:
            self._known[file.name] = _Adapter(file, listed=True)
            self._load(self._known[file.name])

    def __bool__(self) -> bool:
        """Whether there are any, or may be."""
        return self._loader is not None

    def may_touch(self, components: frozenset[str]) -> bool:
        """Whether an adapter may change what these components compute."""
        if self._folder is not None:
            return bool(self._networks.keys() & components)
        return any(adapter.components & components for adapter in self._known.values())

    def offered(self) -> list[Offered]:
        """All that can be computed with, by name. Callable from any thread."""
        self._look()
        with self._lock:
            return [
                Offered(name, one.file.scale, bool(one.loaded_as), one.load_seconds, one.bytes, one.loads)
                for name, one in sorted(self._known.items())
            ]

    def choose(self, wanted: Sequence[Wanted]) -> Chosen | None:
        """What a request is computed with, loaded if it was not. None: this model never has any.

        Raises InvalidRequest, which names the adapter.
        """
        if self._loader is None:
            if wanted:
                raise InvalidRequest("adapters: this pipeline has none: name them in its model.adapters")
            return None
        found = [self._find(one.name, f"adapters[{index}].name") for index, one in enumerate(wanted)]
        chosen = tuple(
            (one.name, adapter.file.scale if one.scale is None else one.scale)
            for one, adapter in zip(wanted, found, strict=True)
        )
        hot = [adapter for adapter in found if not adapter.listed]
        if len(hot) > self._max_loaded:
            raise InvalidRequest(
                f"adapters: {len(hot)} of the adapter folder at once, at most {self._max_loaded} are loaded: ask for "
                "fewer, or raise model.maxLoadedAdapters"
            )
        try:
            self._ensure([name for name, _ in chosen])
        except UnsupportedModel as error:
            raise InvalidRequest(f"adapters: {error}") from error
        return Chosen(chosen, self)

    def activate(self, network: torch.nn.Module, adapters: tuple[tuple[str, float], ...]) -> None:
        """From now on `network` computes with these, and no others."""
        from diffusers.utils import set_weights_and_activate_adapters

        self._ensure([name for name, _ in adapters])
        if self._active.get(id(network)) == adapters:
            return
        layers = self._layers.setdefault(id(network), tuner_layers(network))
        for layer in layers:
            layer.enable_adapters(bool(adapters))
        if adapters:
            names, scales = [self._loaded[name].loaded_as for name, _ in adapters], [scale for _, scale in adapters]
            set_weights_and_activate_adapters(network, names, scales)
        self._active[id(network)] = adapters

    def activate_all(self, chosen: Chosen | None) -> None:
        """The same for all networks that this object holds."""
        for network in self._networks.values():
            if chosen is not None:
                chosen.activate(network)

    # What follows loads and drops.

    def _find(self, name: str, field: str) -> _Adapter:
        adapter = self._known_as(name)
        if adapter is None:
            self._look()
            adapter = self._known_as(name)
        if adapter is None:
            with self._lock:
                there = ", ".join(sorted(self._known)[:20]) or "none yet"
            raise InvalidRequest(f"{field}: there is no adapter {name!r}; there are: {there}")
        return adapter

    def _known_as(self, name: str) -> _Adapter | None:
        with self._lock:
            return self._known.get(name)

    def _look(self) -> None:
        """Learns of what was put into the folder since, and of what was taken away."""
        if self._folder is None:
            return
        try:
            there = sorted(one for one in self._folder.iterdir() if one.suffix == ".safetensors" or one.is_dir())
        except OSError:
            there = []
        by_name = {one.name.removesuffix(".safetensors"): one for one in there}
        # No request can have another name.
        found = {name: one for name, one in by_name.items() if re.fullmatch(ADAPTER_NAME, name, re.ASCII)}
        with self._lock:
            for name, path in list(found.items())[:MAX_OFFERED]:
                if name not in self._known:
                    self._known[name] = _Adapter(AdapterFile(name, path), listed=False)
            for name, adapter in list(self._known.items()):
                if not adapter.listed and not adapter.loaded_as and name not in found:
                    del self._known[name]

    def _ensure(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self._loaded:
                self._loaded[name] = self._loaded.pop(name)
            else:
                self._load(self._find(name, "adapters"))
        kept = [name for name, adapter in self._loaded.items() if not adapter.listed]
        for name in [name for name in kept if name not in names][: max(0, len(kept) - self._max_loaded)]:
            self._drop(self._loaded.pop(name))

    def _load(self, adapter: _Adapter) -> None:
        assert self._loader is not None
        begun = time.perf_counter()
        path = find_file(adapter.file.path, adapter.file.file)
        contents = self._loader.read(path)
        self._count += 1
        inner = f"adapter{self._count}"
        mine = {name: one for name, one in self._networks.items() if name in contents.components}
        with torch.no_grad():
            self._loader.load(contents, path, mine, inner)
        self._forget_state()
        self._loaded[adapter.file.name] = adapter
        with self._lock:
            # It may have been taken out of the folder meanwhile, and forgotten.
            self._known[adapter.file.name] = adapter
            adapter.loaded_as = inner
            adapter.loads += 1
            adapter.components = contents.components
            adapter.bytes = path.stat().st_size
            adapter.load_seconds = time.perf_counter() - begun

    def _drop(self, adapter: _Adapter) -> None:
        drop(list(self._networks.values()), adapter.loaded_as)
        self._forget_state()
        with self._lock:
            adapter.loaded_as = ""

    def _forget_state(self) -> None:
        """What is switched on where has changed with what there is."""
        self._active.clear()
        self._layers.clear()
