"""What tests of any folder share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_REPORTS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORTS] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Figures that a test found, shown at the end of the run."""
    return lambda line: request.config.stash[_REPORTS].append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_REPORTS]:
        terminalreporter.section("figures")
        for line in config.stash[_REPORTS]:
            terminalreporter.write_line(line)
