"""A pytest plugin: `--tier=gate` leaves out what is marked `thorough`, and `--record=FILE` writes down how tests ended.

A line of JSON for each test that failed or could not be set up, and a last one with the counts. A file without that
last line is of a run that did not come to its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

TIERS: Final = ("gate", "all")
_CAUSE: Final = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption("--tier", choices=TIERS, default="all", help="gate: without the tests marked thorough")
    group.addoption("--record", type=Path, metavar="FILE", help="write down how tests ended, as lines of JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: left out of `make test`, part of `make test-all`")
    if (file := config.getoption("--record")) is not None:
        config.pluginmanager.register(_Recorder(file))


@pytest.hookimpl(trylast=True)  # after those that mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--tier") == "all":
        return
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=thorough)
    items[:] = [item for item in items if item not in thorough]


@pytest.fixture(scope="session")
def in_gate(request: pytest.FixtureRequest) -> bool:
    """Whether a test that can be longer or shorter should be short."""
    return bool(request.config.getoption("--tier") == "gate")


class _Recorder:
    def __init__(self, file: Path) -> None:
        self._file = file.open("w")
        self._failed: set[str] = set()
        self._counts = {"passed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            if report.nodeid not in self._failed:
                self._failed.add(report.nodeid)
                self._write({"test": report.nodeid, "cause": _cause(report)})
        elif report.skipped:
            self._counts["skipped"] += 1
        elif report.when == "call":
            self._counts["passed"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write({"broken": report.nodeid, "cause": str(report.longrepr)})

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write({**self._counts, "failed": len(self._failed), "exit": int(exitstatus)})
        self._file.close()

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _cause(report: pytest.TestReport) -> str:
    """The first words of what was raised, and when."""
    lines = list(_errors(report.longreprtext)) or report.longreprtext.splitlines()[-1:]
    # A message of several lines may begin with an empty one.
    said = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return f"{report.when}: {said}"[:_CAUSE]


def _errors(text: str) -> Iterator[str]:
    return (line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E  "))
