"""What can't run in a test is held to what can be known: above all, the images that are built are those asked for."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from diffusion_operator.render.images import PACKAGED
from testbed.documents import NOWHERE, PAGES, ROOT, Block, Page
from testbed.images.building import ARGUMENTS, TARGETS
from unit.chart.charts import render

QUICKSTART = next(page for page in PAGES if page.path == "docs/quickstart.md")
KNOWN = {"docker", "kind", "helm", "kubectl"}
BLOCKS = [block for page in PAGES for block in page.blocks if block.where == NOWHERE]


@dataclass(frozen=True)
class Build:
    target: str
    name: str
    arguments: dict[str, str]


def calls(block: Block, folder: Path) -> list[list[str]]:
    """Which programs the block would call, with what: bash runs it with notebooks in their places."""
    record = folder / "calls"
    for program in KNOWN:
        notebook = folder / program
        notebook.write_text(f'#!/bin/bash\nprintf "%s\\n" "{program} ${{*@Q}}" >>{shlex.quote(str(record))}\n')
        notebook.chmod(0o755)
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        check=True,
        cwd=ROOT,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        timeout=30,
    )
    return [shlex.split(line) for line in record.read_text().splitlines()]


def builds(made: list[list[str]]) -> Iterator[Build]:
    for call in made:
        if call[:2] == ["docker", "build"]:
            words = iter(call[2:])
            found = Build("", "", {})
            for word in words:
                if word == "--target":
                    found = Build(next(words), found.name, found.arguments)
                elif word == "-t":
                    found = Build(found.target, next(words), found.arguments)
                elif word == "--build-arg":
                    key, _, value = next(words).partition("=")
                    found.arguments[key] = value
                else:
                    assert word == ".", f"docker build {word}: not known here"
            yield found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_is_bash_and_calls_programs_that_are_known(block: Block, tmp_path: Path) -> None:
    assert {call[0] for call in calls(block, tmp_path)} <= KNOWN


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_images_are_built_as_those_of_the_tests_are(block: Block, tmp_path: Path) -> None:
    for build in builds(calls(block, tmp_path)):
        assert build.target in TARGETS
        assert build.arguments.items() <= ARGUMENTS.items()
        assert f"/{build.target}:" in build.name


def test_on_kind_the_images_that_are_built_and_loaded_are_those_that_are_asked_for(tmp_path: Path) -> None:
    made = calls(_block(QUICKSTART, "On kind"), tmp_path)
    (loaded,) = (call[3:] for call in made if call[:3] == ["kind", "load", "docker-image"])
    wanted = {render().container["image"], PACKAGED.worker, PACKAGED.router}
    assert {build.name for build in builds(made)} == set(loaded) == wanted


def test_with_a_registry_the_images_that_are_pushed_are_those_that_the_shown_values_name(tmp_path: Path) -> None:
    made = calls(_block(QUICKSTART, "On a cluster with a registry"), tmp_path)
    (values,) = (block.text for block in QUICKSTART.blocks if block.file == "values.yaml")
    container = render(yaml.safe_load(values)).container
    named = {container["image"], *(arg.partition("=")[2] for arg in container["args"] if "-image=" in arg)}
    assert len(named) == 3
    assert {build.name for build in builds(made)} == named
    assert {call[2] for call in made if call[:2] == ["docker", "push"]} == named


def _block(page: Page, section: str) -> Block:
    (block,) = (one for one in page.blocks if (one.section, one.where) == (section, NOWHERE))
    return block
