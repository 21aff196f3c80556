"""What the programs say of themselves by name: the events that they log, the codes of the errors that they answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import Final

from testbed.documents import ROOT

_LEVELS: Final = ("debug", "info", "warning", "error", "exception", "critical")


@cache
def _calls() -> tuple[ast.Call, ...]:
    files = [file for folder in ("operator", "worker", "proto") for file in (ROOT / folder).rglob("*.py")]
    return tuple(node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))


def events() -> frozenset[str]:
    logged = (
        argument
        for call in _calls()
        if isinstance(call.func, ast.Attribute) and call.func.attr in _LEVELS
        for argument in call.args[:1]
    )
    return frozenset(_words(logged))


def error_codes() -> frozenset[str]:
    return frozenset(_words(keyword.value for call in _calls() for keyword in call.keywords if keyword.arg == "code"))


def _words(values: Iterator[ast.expr]) -> Iterator[str]:
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
