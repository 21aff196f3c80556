"""Makes a pipeline folder of a single file: `dpipe convert`.

    python -m diffusion_worker.model.convert FILE DIRECTORY [--config FOLDER_OR_REPOSITORY]

Networks that are in the file come from it, by diffusers' own loaders; all else, and the configs, from `--config`. What
was made is loaded as a worker does before the folder gets its name, so that there is a whole one or none. Exit code: 0
it is made, 2 it is not, and the words say why.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import diffusers
import huggingface_hub
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from diffusion_worker.model import singlefile
from diffusion_worker.model.files import read_json
from diffusion_worker.model.folder import (
    DTYPES,
    INDEX_FILES,
    ModelFolder,
    check_folder,
    load_component,
    open_folder,
    quieten,
    torch_dtype,
)
from diffusion_worker.model.singlefile import SingleFile
from diffusion_worker.model.types import DownloadFailed, UnsupportedModel
from diffusion_worker.model.weightfiles import WEIGHT_SUFFIXES

SAFETY_CHECKER: Final = "safety_checker"
"""That single files never have, and diffusers leaves out of what it makes of them."""
CONFIG_PATTERNS: Final = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
WEIGHTS_OF_ANY_PROGRAM: Final = (*WEIGHT_SUFFIXES, ".index.json", ".gguf", ".h5", ".msgpack", ".onnx")
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Options:
    """How to convert a file."""

    config: str
    """A pipeline folder, or a hub's repository with one. Empty: the repository that diffusers takes for such files."""
    pipeline: str
    """The class, where it is not the config's; empty: that."""
    component: str
    """Which denoiser the file holds, where the pipeline has several; empty: its only one."""
    dtype: str
    """Of what comes from the file; empty: the file's own."""
    variant: str
    allow_pickle: bool


@dataclass(frozen=True)
class Made:
    """What came from where: components, and prefixes of keys that no component has."""

    pipeline: str
    from_file: tuple[str, ...]
    from_config: tuple[str, ...]
    left_out: tuple[str, ...]


def convert(file: Path, target: Path, options: Options) -> Made:
    """Makes the folder `target`. Raises UnsupportedModel, DownloadFailed, OSError; then there is none."""
    _check_target(target)
    found = singlefile.read(file, allow_pickle=options.allow_pickle)
    configs = _configs(options.config or found.configs(), named_by_user=bool(options.config))
    source = _pipeline(open_folder(configs, allow_pickle=True), options)
    from_file = _from_file(found, source, options.component)
    from_config = _from_config(source, from_file, allow_pickle=options.allow_pickle)
    _check_scheduler(found, source)
    dtype = torch_dtype(options.dtype) if options.dtype else None
    with _whole_or_none(target) as draft:
        for name in from_file:
            network = singlefile.load(found, name, source.component_class(name), configs, dtype)
            network.save_pretrained(draft / name, safe_serialization=True, variant=options.variant or None)
            # As it was, without the paths of this machine that the libraries add.
            shutil.copyfile(configs / name / "config.json", draft / name / "config.json")
            del network
        for name in from_config:
            shutil.copytree(source.component_path(name), draft / name, ignore=_other_weights(source, name))
        _write_index(source, draft)
        _check(draft, target, options)
    return Made(source.pipeline_class, from_file, from_config, _left_out(found, from_file))


def _check_target(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()) or (target.is_dir() and any(target.iterdir())):
        raise UnsupportedModel(f"{target}: is there already, and nothing is written over: name another folder")


def _configs(config: str, *, named_by_user: bool) -> Path:
    """The folder with the pipeline's configs; of a repository nothing else is fetched. Raises UnsupportedModel."""
    path = Path(config).expanduser()
    if path.is_dir():
        return path.resolve()
    if named_by_user and (path.is_file() or config.count("/") != 1 or config.startswith((".", "~"))):
        raise UnsupportedModel(f"--config {config}: is neither the folder of a pipeline nor a repository (owner/name)")
    return _fetched(config)


def _fetched(repository: str) -> Path:
    from diffusion_worker.model.adapter_files import share_of
    from diffusion_worker.model.download import Download
    from diffusion_worker.model.patience import Patience, PatientClient

    cache = Path(constants.HF_HUB_CACHE)
    asked = Download(share_of(repository, ""), lambda done, total: None, constants.ENDPOINT, cache)
    patience = Patience(PATIENCE_SECONDS)
    offline = constants.is_offline_mode()
    get = partial(
        huggingface_hub.snapshot_download,
        **asked.common,
        allow_patterns=list(CONFIG_PATTERNS),
        ignore_patterns=["*.index.json"],
        tqdm_class=None,
        local_files_only=offline,
    )
    huggingface_hub.set_client_factory(lambda: PatientClient(patience))
    try:
        return Path(get() if offline else asked.patiently(patience, get))
    except (DownloadFailed, LocalEntryNotFoundError) as error:
        why = "nothing may be downloaded (HF_HUB_OFFLINE)" if offline else str(error).removeprefix("model.id: ")
        raise DownloadFailed(
            f"the configs of such a model are those of {repository} on the hub, which can't be had: {why}: name the "
            "folder of a pipeline of that family with --config"
        ) from error


def _pipeline(configs: ModelFolder, options: Options) -> ModelFolder:
    """The pipeline that is to be: the configs', without a safety checker, and of the class that is asked for."""
    components = {name: kind for name, kind in configs.components.items() if name != SAFETY_CHECKER}
    if options.pipeline and not hasattr(diffusers, options.pipeline):
        raise UnsupportedModel(f"--pipeline: diffusers {diffusers.__version__} has no {options.pipeline}")
    made = replace(
        configs,
        components=components,
        pipeline_class=options.pipeline or configs.pipeline_class,
        variant=options.variant,
    )
    check_folder(made)
    return made


def _from_file(found: SingleFile, source: ModelFolder, component: str) -> tuple[str, ...]:
    """Components that the file holds. Raises UnsupportedModel if it can't be their pipeline's file."""
    classes = {name: source.component_class(name) for name in source.components if source.is_module(name)}
    denoisers = [name for name, kind in classes.items() if singlefile.is_denoiser(kind)]
    if not denoisers:
        raise UnsupportedModel(
            f"{found.path}: diffusers {diffusers.__version__} has no loader of single files for the networks of "
            f"{source.pipeline_class} ({', '.join(kind.__name__ for kind in classes.values())})"
        )
    if component and component not in denoisers:
        raise UnsupportedModel(f"--component {component}: {source.pipeline_class} denoises with {_and(denoisers)}")
    if len(denoisers) > 1 and not component:
        raise UnsupportedModel(
            f"{found.path}: {source.pipeline_class} denoises with {_and(denoisers)}, and a file does not say which of "
            "them it holds: say it with --component, and convert the other with this folder as --config"
        )
    for other in denoisers if component else ():
        if other != component:
            del classes[other]
    return tuple(sorted(name for name, kind in classes.items() if singlefile.holds(found, name, kind)))


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _from_config(source: ModelFolder, from_file: Sequence[str], *, allow_pickle: bool) -> tuple[str, ...]:
    """Components that are taken as they are from the config's folder. Raises UnsupportedModel if it lacks weights."""
    others = tuple(sorted(source.components.keys() - set(from_file)))
    lacking = [
        name for name in others if source.is_module(name) and source.weights(name, allow_pickle=allow_pickle) is None
    ]
    if lacking:
        raise UnsupportedModel(
            f"{', '.join(lacking)}: neither the file nor {source.path} has weights for it: name a whole folder of the "
            "family with --config, not its configs alone"
        )
    return others


def _other_weights(source: ModelFolder, name: str) -> Callable[[str, list[str]], list[str]]:
    """For `copytree`: the component's weights that are not loaded, such as those in other variants."""
    found = source.weights(name)
    loaded = (*found.files, *found.indexes) if found is not None else ()

    def ignored(_folder: str, names: list[str]) -> list[str]:
        return [one for one in names if one.endswith(WEIGHTS_OF_ANY_PROGRAM) and one not in loaded]

    return ignored


def _check_scheduler(found: SingleFile, source: ModelFolder) -> None:
    file = source.path / "scheduler" / "scheduler_config.json"
    predicts = read_json(file).get("prediction_type") if file.is_file() else "v_prediction"
    if singlefile.V_PREDICTION in found.tensors and predicts != "v_prediction":
        raise UnsupportedModel(
            f"{found.path}: says that it predicts v ({singlefile.V_PREDICTION}), and {file} that it predicts "
            f"{predicts}: give as --config a copy of the folder with prediction_type v_prediction there"
        )


@contextmanager
def _whole_or_none(target: Path) -> Iterator[Path]:
    """A folder beside `target`, which gets its name at the end, and is gone where that is not reached."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        # Over an empty folder, and over nothing else.
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_index(source: ModelFolder, draft: Path) -> None:
    name = next(name for name in INDEX_FILES if (source.path / name).is_file())
    index = read_json(source.path / name) | {"_class_name": source.pipeline_class}
    if index.get(SAFETY_CHECKER, [None, None]) != [None, None]:
        index |= {SAFETY_CHECKER: [None, None], "requires_safety_checker": False}
    (draft / name).write_text(json.dumps(index, indent=2) + "\n")


def _check(draft: Path, target: Path, options: Options) -> None:
    """Raises UnsupportedModel unless a worker would load the folder."""
    try:
        made = open_folder(draft, variant=options.variant, allow_pickle=options.allow_pickle)
        check_folder(made)
        for name in made.components:
            # Its range is float32's, at half the memory.
            load_component(made, name, dtype=torch.bfloat16, device="cpu", allow_pickle=options.allow_pickle)
    except UnsupportedModel as error:
        raise UnsupportedModel(str(error).replace(str(draft), str(target))) from error


def _left_out(found: SingleFile, from_file: Sequence[str]) -> tuple[str, ...]:
    """Of the file's keys those that belong to nothing that was taken from it, by their first word, and how many."""
    used = set(found.denoiser)
    for name in from_file:
        used |= found.under(singlefile.TEXT_ENCODERS if name.startswith("text_encoder") else ()).keys()
        used |= found.under(singlefile.prefixes(name) if name.endswith("vae") else ()).keys()
    counts = Counter(key.partition(".")[0] for key in found.tensors.keys() - used)
    return tuple(f"{name} ({number})" for name, number in sorted(counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_worker.model.convert", description=__doc__)
    parser.add_argument("file", type=Path, help="of a whole model, or of its denoiser")
    parser.add_argument("directory", type=Path, help="to make; must not be there, or be empty")
    parser.add_argument("--config", default="", help="a pipeline folder of the family, or a repository on the hub")
    parser.add_argument("--pipeline", default="", help="a class of diffusers; left out: the config's")
    parser.add_argument("--component", default="", help="which denoiser the file holds, of a pipeline with several")
    parser.add_argument("--dtype", choices=DTYPES, help="of what comes from the file; left out: as it is there")
    parser.add_argument("--variant", default="", help="name to give the weights, such as fp16")
    parser.add_argument("--allow-pickle", action="store_true", help="read a .ckpt, which may run any code")
    given = parser.parse_args(argv)
    options = Options(
        given.config, given.pipeline, given.component, given.dtype or "", given.variant, given.allow_pickle
    )
    # Whoever is asked to leave takes the half-made folder along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quieten()
    try:
        made = convert(given.file, given.directory, options)
    except (UnsupportedModel, DownloadFailed, OSError) as error:
        sys.stdout.write(f"{given.file} was not converted: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stdout.write(f"{given.file} was not converted: interrupted\n")
        return 2
    sys.stdout.write(_text(made, given))
    return 0


def _text(made: Made, given: argparse.Namespace) -> str:
    lines = [
        f"{given.directory}: {made.pipeline}",
        f"  from the file: {', '.join(made.from_file)}",
        f"  from the config: {', '.join(made.from_config)}",
        *([f"  left out of the file: {', '.join(made.left_out)}"] if made.left_out else []),
        f"next: dpipe check {given.directory}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
