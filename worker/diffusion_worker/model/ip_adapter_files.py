"""Where the IP-Adapters of a pipeline are: in folders that the worker sees, or in a hub's repositories, fetched.

Each is a file of weights and the folder of the encoder that looks at its pictures. Encoders need both: what kind of
embedding a picture becomes is told by the weights. Denoisers need the weights alone, decoders neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from diffusion_worker.model.adapter_files import Means, obtain, share_of
from diffusion_worker.model.component_files import CONFIG_FILE, Component, fetch_component
from diffusion_worker.model.download import Download
from diffusion_worker.model.types import DownloadFailed, IPAdapterFiles, UnsupportedModel
from diffusion_worker.model.weightfiles import PICKLE_SUFFIXES
from diffusionpipeline.words import Stage

_IMAGE_ENCODER: Final = "image_encoder"


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """Where an image encoder is. Empty `id`: in the folder or repository of its IP-Adapter; then an empty `subfolder`
    is `image_encoder` beside the file, else the root."""

    id: str = ""
    revision: str = ""
    subfolder: str = ""


@dataclass(frozen=True, kw_only=True)
class NamedIPAdapter:
    """One as the resource names it. `id`: a folder, or a repository, and `file` the path of its weights in it."""

    name: str
    id: str
    file: str
    revision: str = ""
    image_encoder: ImageEncoder = ImageEncoder()
    scale: float = 1.0

    @property
    def at(self) -> str:
        """The resource's field."""
        return f"model.ipAdapters[{self.name}]"

    @property
    def encoder(self) -> Component:
        """Where its image encoder is."""
        own = self.image_encoder
        field = f"{self.at}.imageEncoder"
        if own.id:
            return Component(at=field, field=field, id=own.id, revision=own.revision, subfolder=own.subfolder)
        beside = own.subfolder or str(PurePosixPath(self.file).parent / _IMAGE_ENCODER)
        return Component(at=field, field=field, id=self.id, revision=self.revision, subfolder=beside)


def at_path(one: NamedIPAdapter, *, stages: frozenset[Stage]) -> IPAdapterFiles:
    """One in a folder, with its image encoder in another or the same. Raises UnsupportedModel."""
    file, encoder = Path(one.id, one.file), Path(one.encoder.id, one.encoder.subfolder)
    if _wants_file(stages) and not file.is_file():
        raise UnsupportedModel(f"{one.at}.file: there is no {file}: mount its folder into the workers")
    if Stage.ENCODE in stages and not (encoder / CONFIG_FILE).is_file():
        raise UnsupportedModel(
            f"{one.encoder.at}: there is no {encoder / CONFIG_FILE}: name the folder of the encoder that it was "
            "trained with"
        )
    return _files(one, stages, file, encoder)


def from_hub(one: NamedIPAdapter, means: Means, *, stages: frozenset[Stage]) -> IPAdapterFiles:
    """One of repositories: what `stages` need of it, an image encoder's weights of a variant, where it has them so.

    What is in the cache is not asked for again. Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    if not _wants_file(stages):
        return _files(one, stages)
    if PurePosixPath(one.file).suffix in PICKLE_SUFFIXES and not means.allow_pickle:
        raise UnsupportedModel(
            f"{one.at}.file: {one.file} is a pickle that may run any code; name its safetensors, or set "
            "model.allowPickle if you trust its maker"
        )
    # The file is small beside the encoder's weights: that it is not there is known before these come.
    file = _fetch_file(one, means)
    if Stage.ENCODE not in stages:
        return _files(one, stages, file)
    encoder = fetch_component(one.encoder, means, whole=True, whole_first=True)
    return _files(one, stages, file, encoder)


def _fetch_file(one: NamedIPAdapter, means: Means) -> Path:
    def get(asked: Download, *, local: bool) -> Path | None:
        file = asked.snapshot([one.file], local=local) / one.file
        if file.is_file():
            return file
        if local:
            return None
        raise DownloadFailed(f"{one.at}.file: repository {asked.name} has no {one.file}")

    return obtain(one.at, share_of(one.id, one.revision), get, means)


def _wants_file(stages: frozenset[Stage]) -> bool:
    return stages != {Stage.DECODE}


def _files(
    one: NamedIPAdapter, stages: frozenset[Stage], file: Path | None = None, encoder: Path | None = None
) -> IPAdapterFiles:
    return IPAdapterFiles(
        one.name,
        file if _wants_file(stages) else None,
        encoder if Stage.ENCODE in stages else None,
        one.scale,
    )
