"""Where logs go, and in which form."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from diffusionpipeline.words import LogFormat, LogLevel

PROGRAM = """
import logging, sys
import structlog
from diffusionpipeline.process.logs import configure

log = structlog.get_logger()
configure(*sys.argv[1:])
log.debug("looked")
log.info("started", port=1)
logging.getLogger("library").info("all is well")
logging.getLogger("library").warning("it %s", "smells")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
    logging.getLogger("library").exception("failed too")
"""


def written(log_format: LogFormat, level: LogLevel) -> str:
    """What a process that logs writes; it writes nothing to stdout."""
    command = [sys.executable, "-c", PROGRAM, log_format, level]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


def events(log_format: LogFormat, level: LogLevel) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(log_format, level).splitlines()]


def test_away_from_a_terminal_each_line_is_json_on_stderr_and_libraries_say_only_what_is_wrong() -> None:
    started, smells, failed, too = events("auto", "info")
    assert (started["event"], started["level"], started["port"]) == ("started", "info", 1)
    assert (smells["event"], smells["level"], smells["logger"]) == ("it smells", "warning", "library")
    for one in (failed, too):
        assert one["level"] == "error"
        assert one["exception"].endswith("ZeroDivisionError: division by zero")
    assert all(one["timestamp"].endswith("Z") for one in (started, smells, failed, too))


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["looked", "started", "it smells", "failed", "failed too"]),
        ("warning", ["it smells", "failed", "failed too"]),
        ("error", ["failed", "failed too"]),
    ],
)
def test_nothing_below_the_level_is_logged(level: LogLevel, said: list[str]) -> None:
    assert [one["event"] for one in events("json", level)] == said


def test_for_a_terminal_lines_are_text_with_plain_tracebacks() -> None:
    text = written("console", "info")
    assert "started" in text
    assert text.count("Traceback (most recent call last)") == 2
    assert not text.lstrip().startswith("{")
