"""A resource file -> a pipeline, with errors that a person can act on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from diffusion_operator.api import KIND, FieldError, InvalidResourceError, Pipeline, load_pipeline, with_defaults

BUNDLED: Final[Path] = Path(__file__).with_name("digits.yaml")
"""The resource of the bundled model, as in examples/digits.yaml."""


def read_pipeline(path: Path) -> Pipeline:
    """The one DiffusionPipeline in a YAML file (`-`: standard input). Raises InvalidResourceError, OSError."""
    documents = _documents(path)
    ours = [item for item in documents if _is_ours(item)]
    # With a single document the errors of the resource itself say more than "not found".
    candidates = ours or documents
    if len(candidates) != 1:
        raise InvalidResourceError([FieldError((), f"has {len(ours)} resources of kind {KIND}: give a file with one")])
    return load_pipeline(candidates[0])


def read_resources(path: Path) -> list[dict[str, Any]]:
    """Every DiffusionPipeline in a YAML file, with defaults. Raises InvalidResourceError, OSError."""
    return [with_defaults(item) for item in _documents(path) if _is_ours(item)]


def read_text(path: Path) -> str:
    """Raises OSError, UnicodeDecodeError."""
    return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")


def _documents(path: Path) -> list[Any]:
    try:
        return [document for document in yaml.safe_load_all(read_text(path)) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidResourceError([FieldError((), f"is not YAML: {error}")]) from None


def _is_ours(item: object) -> bool:
    return isinstance(item, Mapping) and item.get("kind") == KIND
