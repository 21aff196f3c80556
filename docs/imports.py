"""The page imports.md, who may import whom, from the contracts of import-linter in pyproject.toml.

`make check` holds the code to the contracts, this page draws them.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

SETTINGS: Final = Path(__file__).parents[1] / "pyproject.toml"
LINE: Final = 44
"""Characters of a line in a box."""

HEAD: Final = """\
# Who may import whom

Written by `make docs` from the contracts in [pyproject.toml](../pyproject.toml), to which `make check` holds the code.
[architecture.md](architecture.md#import-rules) says what they are for.
"""
PACKAGES: Final = """
## Between the packages

An arrow is an import that is allowed. All others between packages are refused.
"""
CONTRACTS: Final = """
## The contracts

A crossed line: nothing in the left box imports anything in the right one. An arrow: from a higher layer to a lower one,
which never imports from above. A dotted line leads to what holds within a box.
"""

Contract = Mapping[str, Any]


class UnknownContract(Exception):
    """A contract of a kind for which there is no drawing here. Names it."""


def page() -> str:
    return drawn(tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["tool"]["importlinter"])


def drawn(settings: Mapping[str, Any]) -> str:
    """Of the table `tool.importlinter`. Raises UnknownContract."""
    contracts: Sequence[Contract] = settings["contracts"]
    between = _drawing(_allowed(settings["root_packages"], contracts))
    return HEAD + PACKAGES + between + CONTRACTS + _drawing(_boxes(contracts))


def _drawing(lines: Iterable[str]) -> str:
    return "\n```mermaid\nflowchart LR\n" + "".join(f"    {line}\n" for line in lines) + "```\n"


def _allowed(roots: Sequence[str], contracts: Sequence[Contract]) -> Iterator[str]:
    refused = {
        (source, target)
        for contract in contracts
        for source in contract.get("source_modules", ())
        for target in contract.get("forbidden_modules", ())
    }
    for source in roots:
        for target in roots:
            if source != target and (source, target) not in refused:
                yield f"{source} --> {target}"


def _boxes(contracts: Sequence[Contract]) -> Iterator[str]:
    """A box for each set of modules, which its lines name by a number."""
    numbers: dict[str, str] = {}
    lines = [line for contract in contracts for line in _lines(contract, numbers)]
    yield from (f'{number}["{text}"]' for text, number in numbers.items())
    yield from lines


def _lines(contract: Contract, numbers: dict[str, str]) -> Iterator[str]:
    def box(modules: Iterable[str]) -> str:
        return numbers.setdefault(_wrapped(", ".join(modules)), f"box{len(numbers)}")

    exceptions = (f"but for {one}" for one in contract.get("ignore_imports", ()))
    label = _wrapped("; ".join([contract["name"].replace("`", ""), *exceptions]))
    match contract["type"]:
        case "forbidden":
            yield f'{box(contract["source_modules"])} --x|"{label}"| {box(contract["forbidden_modules"])}'
        case "layers":
            for container in contract.get("containers", ("",)):
                layers = [box(_of(container, layer.split("|"))) for layer in contract["layers"]]
                # One label for all of them.
                yield " --> ".join(layers).replace("-->", f'-->|"{label}"|', 1)
        case "acyclic_siblings":
            inside = box(contract["ancestors"])
            yield f'{inside} -.- within_{inside}{{{{"{label}"}}}}'
        case other:
            raise UnknownContract(f"contract {contract['name']!r} is of type {other!r}: draw it in docs/imports.py")


def _of(container: str, names: Iterable[str]) -> list[str]:
    return [f"{container}.{name.strip()}".removeprefix(".") for name in names]


def _wrapped(text: str) -> str:
    return "<br/>".join(textwrap.wrap(text.replace("->", "→"), LINE, break_long_words=False))
