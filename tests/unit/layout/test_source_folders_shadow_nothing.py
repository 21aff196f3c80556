"""`operator/` and `proto/` have names that Python and others use; without `__init__.py` they are harmless."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["operator", "worker", "proto", "tests", "tests/unit", "tests/contract"])
def test_a_source_folder_is_no_package_itself(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_python_starts_in_the_repository_root() -> None:
    """-S, because start-up hooks may have imported the standard `operator` already and would mask the clash."""
    command = [sys.executable, "-S", "-c", "import collections, operator; print(operator.__file__)"]
    environment = {**os.environ, "PYTHONPATH": "."}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert not answer.stdout.startswith(str(ROOT / "operator"))
