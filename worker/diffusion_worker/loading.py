"""A model, loaded or handed in, with what the router is told of it. Runs on the compute thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Final

from diffusion_worker.model import (
    NO_ADAPTERS,
    AdapterFiles,
    ControlNetFiles,
    IPAdapterFiles,
    SchedulerKind,
    identify,
    load_model,
    resolve_model,
)
from diffusion_worker.model.types import StageModel, Told
from diffusion_worker.settings import Settings
from diffusionpipeline.v1 import peer_pb2
from diffusionpipeline.words import Stage

if TYPE_CHECKING:
    from diffusion_worker.model.adapter_files import Means

_MOONCAKE_WHEELS: Final = ("mooncake-transfer-engine", "mooncake-transfer-engine-non-cuda")


@dataclass(frozen=True)
class Loaded:
    model: StageModel
    identity: peer_pb2.ModelIdentity


def load(settings: Settings, told: Told, paused: Callable[[], None]) -> Loaded:
    """Fetch what is not there of this worker's share of the model, and load it.

    `told` hears, on several threads, how far a download is; `paused` of each of its pauses.
    Raises UnsupportedModel, DownloadFailed, OSError (a full disk).
    """
    _set_threads(settings.threads)
    path = fetch(settings, told, paused)
    commit = path.name if settings.model_source == "Hub" else ""
    digest = identify(path, commit=commit, variant=settings.model_variant)
    model = load_model(
        path=path,
        stages=settings.stages,
        dtype=settings.model_dtype,
        device=settings.device,
        variant=settings.model_variant,
        allow_pickle=settings.allow_pickle,
        adapters=_adapters(settings, paused),
        control_nets=_control_nets(settings, paused),
        ip_adapters=_ip_adapters(settings, paused),
        schedulers=[SchedulerKind(one.name, one.class_name, one.options) for one in settings.schedulers],
        vae_tiling=settings.vae_tiling,
    )
    return Loaded(model, _identity(settings, digest, model.output))


def fetch(settings: Settings, told: Told, paused: Callable[[], None]) -> Path:
    """The folder of the model, once all of this worker's share is there. For the rest see `load`."""
    return resolve_model(
        settings.model_source,
        settings.model_id,
        settings.model_revision,
        stages=settings.stages,
        variant=settings.model_variant,
        allow_pickle=settings.allow_pickle,
        told=told,
        patience_seconds=settings.download_patience_seconds,
        cache_wait_seconds=settings.cache_wait_seconds,
        paused=paused,
    )


def _adapters(settings: Settings, paused: Callable[[], None]) -> AdapterFiles:
    """The files of the adapters that this worker is to load, fetched. Raises UnsupportedModel, DownloadFailed."""
    if settings.stages == {Stage.DECODE}:
        # Nothing that decodes can have any.
        return NO_ADAPTERS
    from diffusion_worker.model.adapter_files import at_path, from_hub, share_of
    from diffusion_worker.model.adapter_folder import AdapterFolder

    listed = [
        at_path(one.name, one.id, one.file, one.scale)
        if one.source == "Path"
        else from_hub(
            one.name,
            share_of(one.id, one.revision),
            one.file,
            one.scale,
            _means(settings, paused),
        )
        for one in settings.adapters
    ]
    folder = Path(settings.adapter_folder) if settings.adapter_folder else None
    if folder is not None:
        AdapterFolder(folder).check()
    return AdapterFiles(listed, folder, settings.max_loaded_adapters)


def _control_nets(settings: Settings, paused: Callable[[], None]) -> list[ControlNetFiles]:
    """The folders of this worker's ControlNets, fetched. Raises UnsupportedModel, DownloadFailed."""
    if not settings.control_nets:
        return []
    from diffusion_worker.model.control_files import Named, at_path, from_hub

    whole, means = Stage.DENOISE in settings.stages, _means(settings, paused)
    named = [(one.source, Named(**one.model_dump(exclude={"source"}))) for one in settings.control_nets]
    return [at_path(one) if source == "Path" else from_hub(one, means, whole=whole) for source, one in named]


def _ip_adapters(settings: Settings, paused: Callable[[], None]) -> list[IPAdapterFiles]:
    """What this worker needs of its IP-Adapters, fetched. Raises UnsupportedModel, DownloadFailed."""
    if not settings.ip_adapters:
        return []
    from diffusion_worker.model.ip_adapter_files import ImageEncoder, NamedIPAdapter, at_path, from_hub

    stages, means = settings.stages, _means(settings, paused)
    found = []
    for one in settings.ip_adapters:
        encoder = ImageEncoder(**one.image_encoder.model_dump())
        named = NamedIPAdapter(**one.model_dump(exclude={"source", "image_encoder"}), image_encoder=encoder)
        by_path = one.source == "Path"
        found.append(at_path(named, stages=stages) if by_path else from_hub(named, means, stages=stages))
    return found


def _means(settings: Settings, paused: Callable[[], None]) -> Means:
    """How weights beside the model's own are fetched."""
    from diffusion_worker.model.adapter_files import Means

    return Means(
        patience_seconds=settings.download_patience_seconds,
        paused=paused,
        variant=settings.model_variant,
        allow_pickle=settings.allow_pickle,
    )


def adopt(model: StageModel, settings: Settings) -> Loaded:
    """A model that is there already."""
    _set_threads(settings.threads)
    return Loaded(model, _identity(settings, "", model.output))


def versions() -> dict[str, str]:
    """Of what two workers must agree on to understand each other's tensors."""
    found = {"python": python_version()}
    for name in ("torch", "diffusers", "transformers", "diffusion-operator"):
        found[name] = _version(name)
    found["mooncake"] = next(filter(None, map(_version, _MOONCAKE_WHEELS)), "")
    return {name: value for name, value in found.items() if value}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _identity(settings: Settings, digest: str, output: str) -> peer_pb2.ModelIdentity:
    return peer_pb2.ModelIdentity(id=settings.model_id, revision=settings.model_revision, digest=digest, makes=output)


def _set_threads(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
