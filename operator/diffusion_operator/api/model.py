"""What a resource says of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NODE_FOLDER: Final = "/var/lib/diffusion-operator/models"
"""Of nodes, where model caches are, unless the platform's file names another."""


@dataclass(frozen=True, kw_only=True)
class SecretKey:
    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Cache:
    type: str
    """EmptyDir, PersistentVolumeClaim, PerPod or ModelCache."""
    claim: str
    """Of type PersistentVolumeClaim."""
    name: str
    """Of type ModelCache."""
    size: str
    """A quantity. Empty: no limit."""
    storage_class: str
    """Empty: the cluster's default."""
    path: str
    read_only: bool
    download: bool
    """False: only what is there already is used."""
    node_folder: str = NODE_FOLDER
    """Of nodes, with all model caches in it."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA weights that requests may ask for by name."""

    name: str
    source: str
    """Hub or Path."""
    id: str
    """A repository, or an absolute path of a file or folder."""
    revision: str
    """Of source Hub. Empty: the repository's default branch."""
    file: str
    """Of the repository or folder. Empty: the only one."""
    scale: float
    """Where a request gives none."""


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """Adapters that are loaded when a request first names them."""

    path: str
    max_loaded: int


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """What a request may have its denoising done by, in the place of the model's own."""

    name: str
    class_name: str
    """Of diffusers."""
    options: Mapping[str, bool | int | float | str]
    """Over the config of the model's own."""


@dataclass(frozen=True, kw_only=True)
class ControlNet:
    """A network that leads a request by a picture, where it names it."""

    name: str
    source: str
    """Hub or Path."""
    id: str
    """A repository, or an absolute path of a folder."""
    revision: str
    """Of source Hub. Empty: the repository's default branch."""
    subfolder: str
    """Of the repository or folder. Empty: its root."""
    scale: float
    """Where a request gives none."""


@dataclass(frozen=True, kw_only=True)
class IPAdapter:
    """Weights by which a request shows the model a picture, where it names them."""

    name: str
    source: str
    """Hub or Path."""
    id: str
    """A repository, or an absolute path of a folder."""
    revision: str
    """Of source Hub. Empty: the repository's default branch."""
    file: str
    """In the repository or folder."""
    image_encoder: str
    """Folder in the repository or folder. Empty: `image_encoder` beside the file."""
    scale: float
    """Where a request gives none."""


@dataclass(frozen=True, kw_only=True)
class Model:
    source: str
    """Bundled, Path, Hub, PersistentVolumeClaim or Image."""
    id: str
    revision: str
    """Empty: the repository's default branch."""
    claim: str
    """Of source PersistentVolumeClaim."""
    sub_path: str
    """Folder in the claim or image. Empty: its root."""
    variant: str
    """Of the weights. Empty: none."""
    dtype: str
    allow_pickle: bool
    token: SecretKey | None
    cache: Cache
    vae_tiling: bool = False
    adapters: tuple[Adapter, ...] = ()
    adapter_folder: AdapterFolder | None = None
    schedulers: tuple[Scheduler, ...] = ()
    control_nets: tuple[ControlNet, ...] = ()
    ip_adapters: tuple[IPAdapter, ...] = ()

    @property
    def downloaded(self) -> bool:
        """Whether workers may have to fetch it, or what lies beside it, from a hub."""
        beside: tuple[Adapter | ControlNet | IPAdapter, ...] = (*self.adapters, *self.control_nets, *self.ip_adapters)
        return "Hub" in (self.source, *(one.source for one in beside)) and self.cache.download
