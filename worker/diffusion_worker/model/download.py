"""Fetches from a hub what a role needs of a model: the index, all configs, its own components' weights in one variant.

The hub's own library keeps the cache (a file once, whoever shares the folder; a file is there whole or not at all) and
goes on in the middle of a file when a connection breaks. Here is what it leaves open: which files, how long it is
tried, how far it has come, and why it failed, in words.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import huggingface_hub
import structlog
from huggingface_hub import constants
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from diffusion_worker.model.folder import DEFAULTS_FILE, INDEX_FILES, ModelFolder, open_folder, quieten
from diffusion_worker.model.patience import PROGRAM, GaveUp, Patience, PatientClient
from diffusion_worker.model.refusals import Wanted, explain, is_about_space, is_passing
from diffusion_worker.model.types import DownloadFailed, Told, UnsupportedModel
from diffusion_worker.model.weightfiles import config_files, folders, weights_of
from diffusionpipeline.words import STAGES, Stage

FILES_AT_ONCE: Final = 4
LOOK_SECONDS: Final = 0.5
"""Between two looks at a cache that others fill."""
LEFT_SECONDS: Final = 3600.0
"""A piece of a file that nobody has written to for so long is of a worker that was killed."""

Made = TypeVar("Made")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Share:
    """What is wanted of a repository, and by whom."""

    id: str
    revision: str
    """Empty: the default branch."""
    stages: frozenset[Stage]
    variant: str = ""
    allow_pickle: bool = False

    @property
    def label(self) -> str:
        """All roles in one word."""
        return "+".join(stage.role for stage in STAGES if stage in self.stages)


def fetch(
    share: Share,
    *,
    told: Told = lambda done, total: None,
    patience: Patience,
    endpoint: str = "",
    cache: Path | None = None,
    offline: bool | None = None,
    wait_seconds: float = 0.0,
) -> Path:
    """The folder in the hub's cache where the share of a model lies whole; its name is the commit.

    `told` is called from several threads with the bytes that are there, and all that there will be. What is left out
    (`endpoint`, `cache`, `offline`) is as the environment says (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE). Where all of the
    share is in the cache under this revision, a hub that can't be asked, or says no, does not matter. `wait_seconds`:
    how long others have to fill the cache, where nothing may be downloaded.
    Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    # It logs addresses, and those of files are good for whoever has them.
    hub_logging.set_verbosity(logging.CRITICAL)
    asked = Download(share, told, endpoint or constants.ENDPOINT, cache or Path(constants.HF_HUB_CACHE))
    if offline is None:
        offline = constants.is_offline_mode()
    if offline:
        return asked.filled_by_others(wait_seconds)
    cached, _ = asked.from_cache()
    if cached is not None and cached.name == share.revision:
        # A commit is for ever.
        return cached
    if cached is not None:
        # Who can start without the hub asks it once.
        patience = Patience(0.0)
    huggingface_hub.set_client_factory(lambda: PatientClient(patience))
    try:
        return asked.from_hub(patience)
    except DownloadFailed as error:
        if cached is None:
            raise
        log.warning("download_failed_but_cached", error=str(error), commit=cached.name)
        return cached


def sizes(share: Share, *, patience: Patience, endpoint: str = "", cache: Path | None = None) -> Mapping[str, int]:
    """Bytes that the share has, by component, with nothing but index and configs downloaded.

    Raises DownloadFailed, UnsupportedModel, OSError, as `fetch` does.
    """
    hub_logging.set_verbosity(logging.CRITICAL)
    asked = Download(
        share, lambda done, total: None, endpoint or constants.ENDPOINT, cache or Path(constants.HF_HUB_CACHE)
    )
    huggingface_hub.set_client_factory(lambda: PatientClient(patience))
    found: Counter[str] = Counter()
    _, wanted, listing = asked.patiently(patience, asked.plan)
    for name in sorted(wanted):
        found[name.partition("/")[0]] += listing[name]
    return found


class Download:
    """One share, on its way."""

    def __init__(self, share: Share, told: Told, endpoint: str, cache: Path) -> None:
        self._share = share
        self._told = told
        self._endpoint = endpoint.rstrip("/")
        self.cache = cache
        self.name = f"{share.id}@{share.revision}" if share.revision else share.id
        self.common: dict[str, Any] = {
            "repo_id": share.id,
            "cache_dir": cache,
            "endpoint": self._endpoint,
            "library_name": PROGRAM,
            "user_agent": {"role": share.label},
        }
        self._most = 0
        has_token = huggingface_hub.get_token() is not None
        self._wanted = Wanted(share.id, share.revision, self._endpoint, has_token)

    def from_cache(self) -> tuple[Path | None, str]:
        """The folder, if all of the share is in the cache; else None and what is not."""
        try:
            path = self._index(local=True)
            listing = self.listing(path)
            folder = self._open(path)
            missing = sorted(name for name in self._files(folder, listing) if not (path / name).exists())
        except (LocalEntryNotFoundError, HFValidationError):
            return None, "the index"
        except UnsupportedModel as error:
            return None, str(error)
        except OSError:
            return None, "configs"
        if missing:
            return None, missing[0]
        self._told(*[_size_of(self._files(folder, listing), listing)] * 2)
        return path, ""

    def filled_by_others(self, seconds: float) -> Path:
        """The folder, once all of the share is in the cache, which is waited for so long. Raises DownloadFailed."""
        deadline = time.monotonic() + seconds
        said = ""
        while True:
            path, lacking = self.from_cache()
            if path is not None:
                return path
            if time.monotonic() >= deadline:
                raise DownloadFailed(
                    f"model.cache: {self.cache} lacks {lacking} of {self.name}, and nothing may be downloaded (type "
                    f"ModelCache, downloadPolicy Never, or HF_HUB_OFFLINE): see that others put it there (`kubectl get "
                    f"modelcaches`), or set downloadPolicy to IfNotPresent"
                )
            if lacking != said:
                log.info("waits_for_cache", lacking=lacking, seconds_left=round(deadline - time.monotonic()))
                said = lacking
            time.sleep(LOOK_SECONDS)

    def from_hub(self, patience: Patience) -> Path:
        """The folder, once all of the share is there. Raises DownloadFailed, UnsupportedModel, OSError."""
        return self.patiently(patience, partial(self._fetch, patience))

    def patiently(self, patience: Patience, attempt_once: Callable[[], Made]) -> Made:
        """What an attempt makes that comes through. Raises DownloadFailed, UnsupportedModel, OSError."""
        attempt = 0
        while True:
            try:
                return attempt_once()
            except (UnsupportedModel, DownloadFailed):
                raise
            except HFValidationError as error:
                raise DownloadFailed(f"model.id: {self._share.id!r} is no name of a repository: {error}") from error
            except Exception as error:
                if is_about_space(error):
                    raise OSError(f"model.cache: {self.cache} has no space left on device: raise its size") from error
                if not is_passing(error):
                    self._raise(error)
                try:
                    patience.pause(attempt, f"the download broke off: {type(error).__name__}")
                except GaveUp:
                    self._raise(error)
            attempt += 1

    def _raise(self, error: BaseException) -> None:
        why = explain(error, self._wanted)
        if why is not None:
            raise DownloadFailed(why) from error
        if isinstance(error, OSError):
            raise DownloadFailed(f"model.cache: {self.cache} can't hold the model: {error}") from error
        raise error

    def plan(self) -> tuple[Path, frozenset[str], Mapping[str, int]]:
        """The folder, which has index and configs; the files that the share is made of; sizes of all there are."""
        path = self._index()
        listing = self.listing(path)
        folder = self._open(path)
        configs = config_files(listing, folder.components)
        self._get(path.name, configs, _Progress(0, 0, lambda done, total: None, lambda there: None))
        return path, configs | self._files(folder, listing), listing

    def _fetch(self, patience: Patience) -> Path:
        path, wanted, listing = self.plan()
        total = _size_of(wanted, listing)
        there = _size_of((name for name in wanted if (path / name).exists()), listing)
        if there < total:
            _clear_away(path.parent.parent / "blobs")
            log.info("download_begins", commit=path.name, bytes=total - there, of=total, files=len(wanted))
        self._told(there, total)
        self._get(path.name, wanted, _Progress(there, total, self._told, partial(self._note, patience)))
        self._told(total, total)
        return path

    def _note(self, patience: Patience, there: int) -> None:
        """What was lost and came again is nothing new."""
        if there > self._most:
            self._most = there
            patience.got_on()

    def _index(self, *, local: bool = False) -> Path:
        """Where the index is, or would be: the folder of a commit."""
        return self.snapshot([*INDEX_FILES, DEFAULTS_FILE], local=local)

    def snapshot(self, patterns: Sequence[str], *, local: bool = False) -> Path:
        """The folder of a commit with those of its files that match; with `local`, of what the cache has.

        Raises LocalEntryNotFoundError, where the cache has no such commit, and what the hub raises.
        """
        revision = self._share.revision or None
        found = huggingface_hub.snapshot_download(
            **self.common,
            revision=revision,
            allow_patterns=list(patterns),
            tqdm_class=_Silent,
            local_files_only=local,
        )
        return Path(found)

    def listing(self, path: Path) -> Mapping[str, int]:
        """Sizes of the commit's files by name: the hub's list of them, or without it, of what is there."""
        try:
            tree = huggingface_hub.get_cached_repo_tree(self._share.id, revision=path.name, cache_dir=self.cache)
        except CachedRepoTreeNotFoundError:
            found = [file for file in path.rglob("*") if file.is_file()]
            return {file.relative_to(path).as_posix(): file.stat().st_size for file in found}
        return {file.path: file.size for file in tree}

    def _open(self, path: Path) -> ModelFolder:
        if not any((path / name).is_file() for name in INDEX_FILES):
            raise UnsupportedModel(
                f"model.id: {self.name} is no pipeline of diffusers: it has none of {', '.join(INDEX_FILES)}"
            )
        return open_folder(path, variant=self._share.variant, allow_pickle=True)

    def _files(self, folder: ModelFolder, listing: Mapping[str, int]) -> frozenset[str]:
        """All that the share is made of, but the index. Of configs, those that are there tell what shells need."""
        from diffusion_worker.model.ownership import owned_components
        from diffusion_worker.model.shells import needs_weights

        quieten()
        owned = owned_components(folder)
        full = {name for stage in self._share.stages for name in owned[stage] if folder.is_module(name)}
        shells = {name for name in folder.components if folder.is_module(name)} - full
        files = set(config_files(listing, folder.components))
        for name in shells:
            folder.component_path(name)
            if needs_weights(folder, name):
                full.add(name)
        names = folders(listing)
        for name in sorted(full):
            found = weights_of(
                name,
                names.get(name, frozenset()),
                variant=self._share.variant,
                allow_pickle=self._share.allow_pickle,
                whole_first=folder.whole_first(name),
            )
            if found is None or found.missing:
                lacks = found.missing if found is not None else "all"
                raise UnsupportedModel(f"{self.name}: component {name} lacks {lacks} of its weights")
            files |= {f"{name}/{file}" for file in (*found.files, *found.indexes)}
        return frozenset(files)

    def _get(self, commit: str, names: Collection[str], progress: _Progress) -> None:
        """Fetches what is not there yet. Raises what the first that failed raised, once the others have ended."""
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="download") as threads:
            running = [threads.submit(self._get_one, commit, name, progress.bar()) for name in sorted(names)]
            for done in as_completed(running):
                if done.exception() is not None:
                    threads.shutdown(wait=True, cancel_futures=True)
                done.result()

    def _get_one(self, commit: str, name: str, bar: Any) -> None:
        huggingface_hub.hf_hub_download(**self.common, filename=name, revision=commit, tqdm_class=bar)


class _Silent:
    """What the hub's library takes for a progress bar, and draws nothing."""

    def __init__(self, *_args: Any, **options: Any) -> None:
        self.total = options.get("total")
        self.n = options.get("initial", 0)
        self.format_dict: dict[str, Any] = {}

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, n: float | None = 1) -> None:
        """Bytes, or files, that came; less than none where they were lost again."""

    def update_transfer(self, n: float | None = 1) -> None:
        pass

    def close(self) -> None:
        pass

    def refresh(self) -> None:
        pass

    def set_description(self, *_args: Any, **_options: Any) -> None:
        pass

    set_description_str = set_postfix_str = set_transfer_postfix_str = set_description


class _Progress:
    """Bytes that are there, of all that files write. Thread-safe."""

    def __init__(self, there: int, total: int, told: Told, came: Callable[[int], None]) -> None:
        """`came` is told of the bytes that are there, by one thread at a time."""
        self._there = there
        self._total = total
        self._told = told
        self._tell_came = came
        self._lock = Lock()

    def bar(self) -> type[_Silent]:
        """For one file."""
        counted = self._came

        class Bar(_Silent):
            def update(self, n: float | None = 1) -> None:
                counted(int(n or 0))

        return Bar

    def _came(self, nbytes: int) -> None:
        with self._lock:
            self._there += nbytes
            there = self._there
            self._tell_came(there)
        self._told(min(there, self._total), self._total)


def _size_of(names: Iterator[str] | Collection[str], listing: Mapping[str, int]) -> int:
    return sum(listing.get(name, 0) for name in names)


def _clear_away(blobs: Path) -> None:
    """Pieces of files that killed workers left: nobody goes on with them."""
    for piece in blobs.glob("*.incomplete"):
        try:
            if time.time() - piece.stat().st_mtime > LEFT_SECONDS:
                piece.unlink()
        except OSError:
            continue
