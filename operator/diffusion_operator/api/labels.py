"""Names of labels and annotations, whose form the definition can't state: a schema says nothing about keys of a map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from diffusion_operator.api.errors import FieldError, InvalidResourceError, Path

_PART: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PREFIX: Final = re.compile(rf"{_PART}(\.{_PART})*")
_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX_CHARACTERS: Final = 253
_NAME_CHARACTERS: Final = 63


def check_names(given: Mapping[str, str], path: Path) -> Mapping[str, str]:
    """What is given, if Kubernetes takes its names. Raises InvalidResourceError."""
    faults = [
        FieldError((*path, name), "is no name of a label or annotation: write it as team or example.com/team")
        for name in given
        if not _is_qualified(name)
    ]
    if faults:
        raise InvalidResourceError(faults)
    return given


def _is_qualified(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    if slash and not (len(prefix) <= _PREFIX_CHARACTERS and _PREFIX.fullmatch(prefix)):
        return False
    return len(name) <= _NAME_CHARACTERS and _NAME.fullmatch(name) is not None
