"""What tests of any folder share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

# The same examples in every run, so that what fails is what was changed, and no deadline, which a busy machine misses;
# HYPOTHESIS_PROFILE names another profile.
settings.register_profile("stable", derandomize=True, deadline=None)
if "HYPOTHESIS_PROFILE" not in os.environ:
    settings.load_profile("stable")

pytest_plugins = ["testbed.tiers.record"]

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
