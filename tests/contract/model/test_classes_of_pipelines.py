"""Folders of many pipeline classes are served, or refused, as docs/models.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.zoo.classes.catalogue import CLASSES
from testbed.zoo.classes.page import rows_of

ROOT = Path(__file__).parents[3]
FEW = (
    # Cut along blocks.
    "FluxPipeline",
    # Replayed: a network that is called once before the loop, and no text at all.
    "StableDiffusionAdapterPipeline",
    "LDMPipeline",
    # Refused: for what it makes, and for what it does inside of its network.
    "DanceDiffusionPipeline",
    "StableDiffusionSAGPipeline",
)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(FEW, id="a few"),
        pytest.param(tuple(name for name in CLASSES if name not in FEW), id="all others", marks=pytest.mark.thorough),
    ],
)
def test_a_class_is_served_or_refused_as_the_page_says(names: tuple[str, ...]):
    command = [sys.executable, "-m", "testbed.zoo.classes.running", *names]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr[-4000:]

    told = rows_of((ROOT / "docs/models.md").read_text(encoding="utf-8"))
    assert rows_of(done.stdout) == {name: told[name] for name in names}
