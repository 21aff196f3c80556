"""A resource file -> a pipeline, with errors that a person can act on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from diffusion_operator.api import KIND, FieldError, InvalidResourceError, Pipeline, load_pipeline

BUNDLED: Final[Path] = Path(__file__).with_name("digits.yaml")
"""The resource of the bundled model, as in examples/digits.yaml."""


def read_pipeline(path: Path) -> Pipeline:
    """The one DiffusionPipeline in a YAML file (`-`: standard input). Raises InvalidResourceError, OSError."""
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidResourceError([FieldError((), f"is not YAML: {error}")]) from None
    ours = [item for item in documents if isinstance(item, Mapping) and item.get("kind") == KIND]
    # With a single document the errors of the resource itself say more than "not found".
    candidates = ours or documents
    if len(candidates) != 1:
        raise InvalidResourceError([FieldError((), f"has {len(ours)} resources of kind {KIND}: give a file with one")])
    return load_pipeline(candidates[0])
