"""A page's blocks, in its order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]

CLUSTER: Final = "cluster"
E2E: Final = "e2e"
NOWHERE: Final = "nowhere"

COMMANDS: Final = ("sh", "python")
FILES: Final = ("yaml", "json")
QUERIES: Final = "promql"
# What a fence without a language holds is commands if it begins with one of these programs.
PROGRAMS: Final = ("kubectl", "helm", "kind", "docker", "dpipe")

_FENCE: Final = re.compile(r"^ {0,3}```([\w-]*)\s*$")
_MARKER: Final = re.compile(r"^<!-- (run|file): (.*?) -->$")
_HEADING: Final = re.compile(r"^##+ (.*)$")
_INLINE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


class PageError(Exception):
    """A block that is not what `documents` says blocks are. Names page, line and remedy."""


@dataclass(frozen=True)
class Block:
    page: str
    """Its path in the repository."""
    line: int
    """Of its opening fence."""
    section: str
    """The heading above it."""
    language: str
    """sh, python, yaml, json or promql."""
    text: str
    where: str = ""
    """Of commands: cluster, e2e or nowhere."""
    reason: str = ""
    """Why it runs nowhere."""
    file: str = ""
    """The name under which its text is saved."""
    shown: str = ""
    """What the page says that it prints."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def queries(self) -> list[str]:
        return [" ".join(query.split()) for query in re.split(r"\n\s*\n", self.text) if query.strip()]


@dataclass(frozen=True)
class Page:
    """Of a path in the repository; with `section`, that one of its sections alone."""

    path: str
    section: str = ""

    def __str__(self) -> str:
        return self.path

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Raises PageError."""
        return _blocks(self.path, self.text, self.section)

    @cached_property
    def prose(self) -> str:
        """Without what is in fences."""
        kept, fenced = [], False
        for line in self._lines():
            if _FENCE.match(line):
                fenced = not fenced
            elif not fenced:
                kept.append(line)
        return "\n".join(kept)

    @property
    def inline(self) -> Iterator[str]:
        """Code within the prose."""
        return (found[1].replace("\\|", "|") for found in _INLINE.finditer(self.prose))

    def _lines(self) -> Iterator[str]:
        section = ""
        for line in self.text.splitlines():
            heading = _HEADING.match(line)
            section = heading[1] if heading else section
            if self.section in ("", section):
                yield line


# About the code: their names are those of files and functions, and nothing in them is run.
_INSIDE: Final = ("architecture", "figures", "imports", "job-lifecycle")

PAGES: Final = (
    Page("README.md", "On Kubernetes"),
    *(Page(f"docs/{path.name}") for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in _INSIDE),
)


def _blocks(path: str, text: str, only: str) -> list[Block]:
    found: list[Block] = []
    section, marker, marked_at, closed_at = "", ("", ""), -1, -1
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if heading := _HEADING.match(line):
            section = heading[1]
        elif line.startswith("    ") and number and not lines[number - 1].strip():
            raise PageError(f"{path}:{number + 1}: an indented block, which nobody runs: fence it")
        elif line.startswith("<!--"):
            marker, marked_at = _marker(path, number, line), number
        elif fence := _FENCE.match(line):
            end = next((at for at in range(number + 1, len(lines)) if lines[at].strip() == "```"), None)
            if end is None:
                raise PageError(f"{path}:{number + 1}: this fence is never closed")
            block = Block(path, number + 1, section, fence[1], "\n".join(lines[number + 1 : end]) + "\n")
            given = marker if marked_at == number - 1 else ("", "")
            follows = closed_at >= 0 and not any(map(str.strip, lines[closed_at + 1 : number]))
            if only not in ("", section):
                pass
            elif not block.language and not given[0] and follows and found[-1].language in COMMANDS:
                found[-1] = replace(found[-1], shown=block.text)
            else:
                found.append(_understood(block, *given))
            number = closed_at = end
        number += 1
    return found


def _marker(path: str, number: int, line: str) -> tuple[str, str]:
    found = _MARKER.match(line)
    if found is None:
        raise PageError(f"{path}:{number + 1}: {line} is no marker: write <!-- run: e2e --> or the like")
    return found[1], found[2]


def _understood(block: Block, kind: str, value: str) -> Block:
    """With what its marker says. Raises PageError."""
    if not block.language and block.text.split()[:1] and block.text.split()[0] in PROGRAMS:
        block = replace(block, language="sh")
    if block.language in COMMANDS and kind in ("", "run"):
        where, _, reason = value.partition(":")
        where = where.strip() or CLUSTER
        if where not in (CLUSTER, E2E, NOWHERE) or (where == NOWHERE) is not bool(reason.strip()):
            raise PageError(f"{block}: run: {value} is neither e2e nor nowhere: with its reason")
        if block.language == "python" and where == CLUSTER:
            raise PageError(f"{block}: a program needs pods that run: mark it with <!-- run: e2e -->")
        return replace(block, where=where, reason=reason.strip())
    if block.language in FILES and kind == "file" and re.fullmatch(r"[\w.-]+", value):
        return replace(block, file=value)
    if block.language == QUERIES and not kind:
        return block
    raise PageError(
        f"{block}: a block of language {block.language or 'none'!r} with marker {kind or 'none'!r}: it must be "
        "commands (sh, python), a file (yaml, json) whose marker names it, promql, or, without a language, what "
        "commands show"
    )
