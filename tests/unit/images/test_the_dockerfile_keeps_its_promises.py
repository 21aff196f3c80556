"""What holds of the images without building one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from diffusion_operator.render.images import PACKAGED
from testbed.images.building import SOURCES, TARGETS, name, version

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, tuple[str, list[str]]]:
    """Of each stage, what it is made from, and its instructions, each on one line."""
    lines = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found: dict[str, tuple[str, list[str]]] = {}
    body: list[str] = []
    for line in lines:
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            body = []
            found[start[2]] = (start[1], body)
        else:
            body.append(line)
    return found


def lineage(target: str) -> list[str]:
    """The instructions that make the target's image, those of the stages under it first."""
    known = stages()
    instructions: list[str] = []
    stage = target
    while stage in known:
        parent, body = known[stage]
        instructions = [*body, *instructions]
        stage = parent.replace("${TORCH}", "pypi")
    assert stage == "${BASE}"
    return instructions


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_of_no_rights_and_ends_by_sigterm(target: str) -> None:
    instructions = lineage(target)
    users = [line for line in instructions if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]
    assert "STOPSIGNAL SIGTERM" in instructions
    assert instructions.index(users[0]) > max(i for i, line in enumerate(instructions) if line.startswith("RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_code_is_copied_after_all_dependencies(target: str) -> None:
    instructions = lineage(target)
    code = instructions.index(f"COPY --from=code /code/{target} /opt/app")
    assert not any(line.startswith(("RUN", "COPY")) for line in instructions[code + 1 :])


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled(target: str) -> None:
    labels = {key for line in lineage(target) for key in re.findall(r"org\.opencontainers\.image\.(\w+)=", line)}
    assert labels >= {"title", "description", "version", "revision", "created", "licenses"}


def test_the_base_is_pinned_to_a_version_and_can_be_chosen() -> None:
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base is not None
    assert re.search(r":\d[\w.-]*$", base[1])
    assert ":latest" not in DOCKERFILE


def test_what_is_copied_is_what_the_archives_depend_on_and_what_reaches_a_build() -> None:
    copied = {
        word.rstrip("/")
        for _, body in stages().values()
        for line in body
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied == let_in == set(SOURCES)


def test_chart_operator_and_images_are_of_one_version_and_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = ROOT / "charts" / "diffusion-operator"
    repository = yaml.safe_load((chart / "values.yaml").read_text())["image"]["repository"]
    app_version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    default = re.search(r"^ARG VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert project["version"] == version() == app_version == default[1]
    assert name("operator") == f"docker.io/{repository}:{app_version}"
    assert name("worker") == f"docker.io/{PACKAGED.worker}"
    assert name("router") == f"docker.io/{PACKAGED.router}"
