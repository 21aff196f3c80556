"""Locks: every package that images and CI install has a version and hashes, and is what pyproject.toml asks for."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
PIN = re.compile(r"([a-z0-9][a-z0-9._-]*)==([^ ;]+)(?: ; [^\\]+)?(?: \\)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locks_write", ROOT / "locks/write.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITE = script()
LOCKS = sorted(path.stem for path in (ROOT / "locks").glob("*.txt"))


def pins(name: str) -> dict[str, set[str]]:
    """Versions by package: more than one where markers tell them apart."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / f"locks/{name}.txt").read_text().splitlines():
        if match := PIN.fullmatch(line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_no_lock_is_left_behind_by_pyproject_toml() -> None:
    assert WRITE.stale() == []
    assert set(LOCKS) == WRITE.asked().keys()


def test_an_edit_of_pyproject_toml_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = WRITE.PROJECT.read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace('"xxhash>=4",', '"xxhash>=4",\n  "zstandard>=0.23",'))
    monkeypatch.setattr(WRITE, "PROJECT", tmp_path / "pyproject.toml")
    assert set(WRITE.stale()) == {"ci", "operator", "router", "cli", "worker-cpu", "worker-cuda"}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_versions_and_hashes_and_nothing_else(name: str) -> None:
    lines = (ROOT / f"locks/{name}.txt").read_text().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    assert body
    for line, after in zip(body, [*body[1:], ""], strict=True):
        assert PIN.fullmatch(line) or HASH.fullmatch(line), line
        assert line.endswith(" \\") == after.startswith("    --hash="), line
        assert not PIN.fullmatch(line) or after.startswith("    --hash="), f"{line} has no hash"


@pytest.mark.parametrize("name", [name for name in LOCKS if name.startswith(("operator", "router", "cli", "worker"))])
def test_images_have_the_versions_that_tests_ran_with(name: str) -> None:
    tested = pins("ci")
    for package, versions in pins(name).items():
        if package != "mooncake-transfer-engine":  # the CUDA one, of the version of the other
            assert versions <= tested[package], package
    assert not {"torch", "torchvision", "triton"} & pins(name).keys()


def test_what_an_image_does_not_need_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = {re.match(r"[A-Za-z0-9-]+", line)[0] for line in (*project["dependencies"], *WRITE.APART["worker-cpu"])}  # type: ignore[index]
    for names in (WRITE.NOT_IN_OPERATOR, WRITE.NOT_IN_ROUTER, WRITE.NOT_IN_CLI, WRITE.NOT_IN_WORKER):
        assert set(names) <= known
