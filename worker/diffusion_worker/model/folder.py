"""A model folder: find it, read its index, say what it is, load one component of it.

Weights come from safetensors alone and no code of the folder is ever run: a pickle executes what it pleases when it is
loaded, and so does a remote module.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diffusion_worker.model.files import MAX_HEADER_BYTES, check_weight_files, header, read_json
from diffusion_worker.model.types import Scalar, UnsupportedModel
from diffusion_worker.model.weightfiles import CONFIG_SUFFIXES, WEIGHT_SUFFIXES, Weights, weights_of

if TYPE_CHECKING:
    import torch

DTYPES: Final = ("float32", "bfloat16", "float16")
DEFAULTS_FILE: Final = "generation_defaults.json"
CONFIG_FILES: Final = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
LORA_FILE: Final = "pytorch_lora_weights.safetensors"
INDEX_FILES: Final = ("model_index.json", "modular_model_index.json")
LIBRARIES: Final = ("diffusers", "transformers")


@dataclass(frozen=True)
class ModelFolder:
    """A pipeline folder as diffusers writes it: an index, and a folder for each component."""

    path: Path
    pipeline_class: str
    components: Mapping[str, tuple[str, str]]
    """(library, class) by component name; components that the index leaves empty are absent."""
    config: Mapping[str, object]
    """The index's own values, such as boundary_ratio."""
    variant: str = ""
    """Of the weights, where a component has it. Empty: those without one."""

    @cached_property
    def defaults(self) -> Mapping[str, Scalar]:
        """What a request means when it leaves fields out: the folder's `generation_defaults.json`, if it has one.

        Any model folder may have this file: a flat object of request fields (height, width, num_inference_steps,
        guidance_scale, num_frames, fps, negative_prompt, strength) and the pipeline's own scalar arguments
        (max_sequence_length, …).
        """
        file = self.path / DEFAULTS_FILE
        if not file.is_file():
            return {}
        values = read_json(file)
        wrong = sorted(name for name, value in values.items() if not isinstance(value, int | float | str | bool))
        if wrong:
            raise UnsupportedModel(f"{file}: {', '.join(wrong)}: must be a number, a string or a boolean")
        return {name: value for name, value in values.items() if isinstance(value, int | float | str | bool)}

    @property
    def default_fps(self) -> int | None:
        """Frames per second by the folder's defaults."""
        fps = self.defaults.get("fps")
        return fps if isinstance(fps, int) and not isinstance(fps, bool) and fps > 0 else None

    def component_path(self, name: str) -> Path:
        """The folder of a component that the index names."""
        path = self.path / name
        if not path.is_dir():
            library, class_name = self.components[name]
            raise UnsupportedModel(
                f"{self.path}: the index names {name} ({library} {class_name}), but it has no folder"
            )
        return path

    def component_config(self, name: str) -> Mapping[str, Any]:
        """The config of a component; empty: it has none."""
        file = self.path / name / "config.json"
        return read_json(file) if file.is_file() else {}

    def component_class(self, name: str) -> Any:
        """The class of a component, from the installed libraries alone."""
        library, class_name = self.components[name]
        module_name = library if library in LIBRARIES else f"diffusers.pipelines.{library}"
        if library not in LIBRARIES and importlib.util.find_spec(module_name) is None:
            raise UnsupportedModel(
                f"{self.path}: component {name} is of library {library!r}, which is code of the model's own; only "
                f"classes of diffusers and transformers are loaded"
            )
        module = importlib.import_module(module_name)
        found = getattr(module, _present_name(class_name), None)
        if found is None:
            raise UnsupportedModel(f"{self.path}: component {name}: {module_name} has no class {class_name}")
        return self._by_its_config(name, found)

    def _by_its_config(self, name: str, found: Any) -> Any:
        """The class that diffusers makes of this one, where an old name stands for several."""
        from diffusers.models import model_loading_utils as loading

        if found.__name__ not in loading._CLASS_REMAPPING_DICT:
            return found
        config = found.load_config(self.component_path(name), local_files_only=True)
        return loading._fetch_remapped_cls_from_config(config, found)

    def is_module(self, name: str) -> bool:
        """Whether a component has weights."""
        import torch

        return issubclass(self.component_class(name), torch.nn.Module)

    def whole_first(self, name: str) -> bool:
        """Whether one file of all weights goes before pieces of them."""
        return self.components[name][0] == "transformers"

    def weights(self, name: str, *, allow_pickle: bool = True) -> Weights | None:
        """Which of a component's files are loaded. None: it has no weights, or they are not there."""
        names = [file.name for file in (self.path / name).glob("*")]
        whole_first = self.whole_first(name)
        return weights_of(
            f"{self.path / name}", names, variant=self.variant, allow_pickle=allow_pickle, whole_first=whole_first
        )

    def weight_paths(self, name: str) -> list[Path]:
        """Where a component's safetensors lie, of those that are loaded."""
        found = self.weights(name)
        names = found.files if found is not None else ()
        return [self.path / name / file for file in names if file.endswith(".safetensors")]

    def weight_bytes(self, name: str) -> int:
        """Bytes of the weights that are loaded of a component; 0 for tokenizers, schedulers and the like."""
        found = self.weights(name)
        return sum((self.path / name / file).stat().st_size for file in found.files) if found is not None else 0


def open_folder(path: Path, *, variant: str = "", allow_pickle: bool = False) -> ModelFolder:
    """Reads a pipeline folder's index and refuses pickled weights. Loads nothing."""
    index_file = next((path / name for name in INDEX_FILES if (path / name).is_file()), None)
    if index_file is None:
        raise UnsupportedModel(
            f"{path}: not a diffusers pipeline folder: it has none of {', '.join(INDEX_FILES)}{_instead(path)}"
        )
    index = read_json(index_file)
    components: dict[str, tuple[str, str]] = {}
    config: dict[str, object] = {}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if isinstance(value, list) and len(value) in (2, 3) and all(_is_name(part) for part in value[:2]):
            library, class_name = value[0], value[1]
            if len(value) == 3 and library is None:
                library, class_name = value[2].get("type_hint") or (None, None)
            if library is not None and class_name is not None:
                components[name] = (library, class_name)
        else:
            config[name] = value
    folder = ModelFolder(path, str(index.get("_class_name") or ""), components, config, variant)
    if not allow_pickle:
        for name in components:
            folder.weights(name, allow_pickle=False)
    return folder


def _instead(path: Path) -> str:
    """What a folder without an index may be, and what to do then."""
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if LORA_FILE in files:
        return f"; {LORA_FILE} is an adapter and no model: name the model that it was made for"
    if files:
        return (
            f"; {files[0]} may hold a whole model: make a folder of it with `dpipe convert {path / files[0]} DIRECTORY`"
        )
    if ggufs := sorted(file.name for file in path.glob("*.gguf")):
        return f"; {ggufs[0]} is GGUF, quantised for other programs: take the safetensors that it was made from"
    return ""


def check_folder(folder: ModelFolder) -> None:
    """Raises UnsupportedModel for what keeps every role from loading: classes that are not there, broken configs."""
    import diffusers

    if not folder.pipeline_class or getattr(diffusers, folder.pipeline_class, None) is None:
        raise UnsupportedModel(
            f"{folder.path}: its index names no pipeline (_class_name) that diffusers {diffusers.__version__} has, but "
            f"{folder.pipeline_class or 'nothing'!r}; no code of the model's own is run"
        )
    for name in folder.components:
        folder.component_class(name)
        for file in (folder.component_path(name) / known for known in CONFIG_FILES):
            config = read_json(file) if file.is_file() or file.is_symlink() else {}
            if config.get("scaling_factor", 1) is None:
                raise UnsupportedModel(f"{file}: scaling_factor: is null, and latents are divided by it")


def identify(path: Path, *, commit: str = "", variant: str = "") -> str:
    """What the model in a folder is: xxh3-128 (hex) over its configs and its weight files' names, sizes and headers.

    Two copies of a model have one identity wherever they lie. Weights are not read. Where `commit` says what the files
    are, it is that and the weights' variant: of a model from a hub each role has other files.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    if commit:
        digest.update(f"{commit}\0{variant}".encode())
        return digest.hexdigest()
    for file in _model_files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(_header(file) if file.suffix in WEIGHT_SUFFIXES else file.read_bytes())
    return digest.hexdigest()


def count_elements(file: Path) -> int:
    """The number of values in a safetensors file, by its header."""
    entries = json.loads(header(file))
    return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in `DTYPES`."""
    import torch

    if name not in DTYPES:
        raise UnsupportedModel(f"model.dtype: {name!r} is none of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_component(
    folder: ModelFolder,
    name: str,
    *,
    dtype: torch.dtype,
    device: str,
    allow_pickle: bool,
    other_parts: tuple[str, ...] = (),
) -> Any:
    """Loads one component with its weights, in `dtype` and on `device`.

    `other_parts`: how tensors' names begin that are of other parts of a model, of which the component is one.
    """
    import torch

    from diffusion_worker.model.intact import check_keys, check_weights
    from diffusion_worker.model.quantised import check_kept, check_package, method

    component_class = folder.component_class(name)
    path = folder.component_path(name)
    arguments: dict[str, Any] = {"local_files_only": True}
    found: Weights | None = None
    config: Mapping[str, Any] = {}
    if is_module := issubclass(component_class, torch.nn.Module):
        library = "diffusers" if hasattr(component_class, "load_config") else "transformers"
        config = folder.component_config(name)
        check_package(path, config, library)
        # Half-precision folders crash with mixed types unless told; and nothing else keeps diffusers from *.bin.
        arguments |= {"dtype": dtype, "use_safetensors": None if allow_pickle else True, "output_loading_info": True}
        found = _readable_weights(folder, name)
        arguments["variant"] = found.variant or None
        if library == "transformers":
            # What transformers raises for them names no tensor; what it tells of them does.
            arguments["ignore_mismatched_sizes"] = True
    if component_class.__name__.startswith("Auto"):
        arguments["trust_remote_code"] = False
    _check_vocabulary(component_class, path)
    try:
        loaded = component_class.from_pretrained(path, **arguments)
    except Exception as error:
        # Of many kinds, by what is wrong with which file.
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModel(f"{path}: {component_class.__name__} can't be loaded: {text}") from error
    if not is_module:
        return loaded
    component, info = loaded
    unexpected = [key for key in info["unexpected_keys"] if not key.startswith(other_parts)]
    info = {**info, "unexpected_keys": unexpected}
    check_keys(component, info, path, found.files if found is not None else ())
    check_kept(component, path, config)
    component.eval().requires_grad_(False)
    # Some quantised ones are loaded where they run, and refuse to be moved.
    if not method(config) or any(weight.device.type != torch.device(device).type for weight in component.parameters()):
        component.to(device)
    check_weights(component, path)
    return component


def _readable_weights(folder: ModelFolder, name: str) -> Weights:
    """A component's weights, all of them there. Raises UnsupportedModel."""
    path, found = folder.component_path(name), folder.weights(name)
    if found is None:
        files = sorted(file.name for file in path.iterdir())
        if ggufs := [file for file in files if file.endswith(".gguf")]:
            raise UnsupportedModel(
                f"{path}: its weights are GGUF ({ggufs[0]}), which diffusers loads from no folder: take the "
                "safetensors that they were made from"
            )
        there = ", ".join(files) or "none"
        raise UnsupportedModel(
            f"{path}: it has no weights by a name that its library reads, such as "
            f"{'model' if folder.whole_first(name) else 'diffusion_pytorch_model'}.safetensors; its files are: {there}"
        )
    if found.missing:
        raise UnsupportedModel(f"{path}: of its weights {found.missing} is not there: get it, or the model again")
    check_weight_files(path / file for file in found.files)
    if len(found.files) > 1 and not found.indexes:
        raise UnsupportedModel(f"{path}: its weights are in pieces, of which no .index.json says what is where: get it")
    return found


def _check_vocabulary(component_class: Any, path: Path) -> None:
    """Raises UnsupportedModel for a tokenizer without words, which transformers makes without a word of its own."""
    names = {"tokenizer.json", *getattr(component_class, "vocab_files_names", {}).values()}
    if len(names) > 1 and not any((path / name).is_file() for name in names):
        raise UnsupportedModel(
            f"{path}: {component_class.__name__} has no vocabulary here: it needs one of {', '.join(sorted(names))}"
        )


def quieten() -> None:
    """Stops diffusers and transformers from warning, drawing progress bars, and logging what is raised as well."""
    import diffusers
    import transformers

    # For the whole process: `catch_warnings` puts back what it found, which goes wrong where several runs take turns.
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _present_name(class_name: str) -> str:
    """What transformers calls a class now, by diffusers' list of those that were renamed."""
    from diffusers.utils.deprecation_utils import _maybe_remap_transformers_class

    return _maybe_remap_transformers_class(class_name) or class_name


def _is_name(value: object) -> bool:
    return value is None or isinstance(value, str)


def _model_files(path: Path) -> Iterator[Path]:
    suffixes = (*WEIGHT_SUFFIXES, *CONFIG_SUFFIXES)
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and file.suffix in suffixes and not hidden:
            yield file


def _header(file: Path) -> bytes:
    """The JSON header of a safetensors file; nothing of a pickle, or of what is no such file: it may not be loaded."""
    if file.suffix != ".safetensors":
        return b""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(length) if length <= MAX_HEADER_BYTES else b""
