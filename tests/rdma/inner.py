"""Tests that run in a guest: the command that runs them there, and what came of it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from testbed.guests.running import Done

SOFT_ROCE = "bash tests/rdma/inside/soft-roce.sh"


def pytest_in_guest(name: str, *arguments: str, slowness: float = 1) -> str:
    """A command that leaves its results where `judged` looks for `name`."""
    return (
        f"REQUIRE_RDMA=1 TEST_SLOWNESS={slowness:g} python3 -m pytest -p no:cacheprovider --tb=short "
        f"--junitxml=/share/out/{name}.xml {' '.join(arguments)} 2>&1"
    )


def judged(name: str, done: Done, share: Path) -> list[str]:
    """Fails unless all tests passed, none of them skipped. Gives the figures that they reported."""
    assert done.status == 0, done.output
    (suite,) = ElementTree.parse(share / "out" / f"{name}.xml").getroot()
    counts = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    assert counts["tests"] > 0, done.output
    assert counts["failures"] == counts["errors"] == counts["skipped"] == 0, done.output
    seconds = {case.attrib["name"]: float(case.attrib["time"]) for case in suite.iter("testcase")}
    slowest = max(seconds, key=lambda test: seconds[test])
    figures = done.output.partition("= figures =")[2].splitlines()[1:]
    return [
        f"{counts['tests']} tests in {done.seconds:.0f} s, start of the guest included; the slowest took "
        f"{seconds[slowest]:.0f} s: {slowest}",
        *(line for line in figures if line.startswith("test_")),
    ]
