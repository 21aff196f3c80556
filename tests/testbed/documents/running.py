"""A page's commands, run in its order as a reader would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from testbed.documents.pages import ROOT, Block, Page
from testbed.waiting import TooLate, until

# At the end of a block, what may be asked again and again until it shows what the page says.
_READS: Final = ("kubectl get", "kubectl describe", "dpipe peers", "dpipe jobs")
_LONGEST_PAUSE: Final = 0.3
_AGE: Final = re.compile(r"(?:\d+[ywdhms]){1,3}")


class Failed(AssertionError):
    """A block that failed, took too long or showed something else than the page says."""


@dataclass(frozen=True)
class Deadlines:
    """In seconds."""

    block: float = 120.0
    shown: float = 30.0
    """Beyond a block's own time, until what it reads is as the page shows it."""


def run_blocks(
    page: Page,
    where: str | Collection[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    replacing: Mapping[str, str] | None = None,
    deadlines: Deadlines = Deadlines(),
) -> list[Block]:
    """Runs the page's blocks of commands that are for `where` (cluster, e2e or both), and returns them.

    Each block has a bash of its own (`set -euo pipefail`), or a Python, in `folder`, which holds what the repository
    does and the page's files. `environment` is all that it sees: PATH must lead to kubectl, helm, dpipe and python.
    `replacing` maps texts of the page to what this place has instead, such as a port. What a block leaves in the
    background (a port-forward) runs until the page ends. Raises Failed.
    """
    wanted = (where,) if isinstance(where, str) else tuple(where)
    _check_out(folder)
    ran = []
    with contextlib.ExitStack() as stack:
        for block in page.blocks:
            for old, new in (replacing or {}).items():
                block = replace(block, text=block.text.replace(old, new), shown=block.shown.replace(old, new))
            if block.file:
                (folder / block.file).write_text(block.text)
            elif block.where in wanted:
                _run(block, environment, folder, deadlines, stack)
                ran.append(block)
    return ran


def _check_out(folder: Path) -> None:
    for entry in ROOT.iterdir():
        link = folder / entry.name
        if not entry.name.startswith(".") and not link.exists():
            link.symlink_to(entry)


def _run(
    block: Block,
    environment: Mapping[str, str],
    folder: Path,
    deadlines: Deadlines,
    stack: contextlib.ExitStack,
) -> None:
    printed = _printed_by(block, block.text, environment, folder, deadlines.block, stack)
    if not block.shown:
        return
    last = re.split(r"(?<!\\)\n", block.text.rstrip())[-1]

    def shown_now() -> bool:
        nonlocal printed
        # What came before it stays printed.
        printed += _printed_by(block, last, environment, folder, deadlines.block, stack)
        return missing_line(block.shown, printed) is None

    if missing_line(block.shown, printed) is not None and last.startswith(_READS):
        with contextlib.suppress(TooLate):
            until(shown_now, deadlines.shown, "it is shown", longest_pause=_LONGEST_PAUSE)
    if (missing := missing_line(block.shown, printed)) is not None:
        raise Failed(f"{block} shows\n{block.shown}and not, for {missing!r} is missing,\n{printed}")


def _printed_by(
    block: Block,
    text: str,
    environment: Mapping[str, str],
    folder: Path,
    seconds: float,
    stack: contextlib.ExitStack,
) -> str:
    command = ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    # Files, and no pipes: what stays in the background holds them open, and writes on.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = None
        # As long as any of a session runs, its number is nobody else's.
        if _runs(process.pid):
            stack.callback(_end, process.pid)
        printed, complaint = map(_text, (output, errors))
    if status != 0:
        how = f"did not end within {seconds:.0f} s" if status is None else f"ended with {status}"
        raise Failed(f"{block} {how}:\n{text}--- it printed:\n{printed[-4000:]}{complaint[-4000:]}")
    return printed


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _end(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def _runs(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def missing_line(shown: str, printed: str) -> str | None:
    """The first line of `shown` that was not printed, in this order. None: all were.

    Spaces do not count, an age is like any other, `…` is anything at all, and other lines may be in between.
    """
    lines = iter(printed.splitlines())
    for wanted in filter(str.strip, shown.splitlines()):
        pattern = _pattern(wanted)
        if wanted.strip() != "…" and not any(pattern.fullmatch(_squeezed(line)) for line in lines):
            return wanted
    return None


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(" ".join(_words(line)))


def _words(line: str) -> Iterator[str]:
    for word in line.split():
        yield _AGE.pattern if _AGE.fullmatch(word) else ".*".join(re.escape(part) for part in word.split("…"))


def _squeezed(line: str) -> str:
    return " ".join(line.split())
