"""What a resource says of its model."""

from __future__ import annotations

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

    @property
    def downloaded(self) -> bool:
        """Whether workers may have to fetch it from a hub."""
        return self.source == "Hub" and self.cache.download
