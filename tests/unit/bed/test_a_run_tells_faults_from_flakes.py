"""A tier of small test files, run as `make test` runs its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from testbed.tiers.catalogue import Step, Tier
from testbed.tiers.running import MOST_FLAKY, Run

TESTS: Final = Path(__file__).parents[2]
PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "testbed.tiers.record", "-p", "no:cacheprovider", "-q")
GOOD: Final = "def test_good(): pass\n"
BAD: Final = "def test_bad(): assert 1 + 1 == 3\n"
FLAKY: Final = """
import pathlib
@__import__("pytest").mark.parametrize("number", range({count}))
def test_flaky(number):
    mark = pathlib.Path(f"mark-{{number}}")
    met = mark.exists()
    mark.touch()
    assert met, "the first time"
"""


FLAKY_FIXTURE: Final = """
import pathlib, pytest
@pytest.fixture(scope="module")
def part():
    mark = pathlib.Path("mark-of-the-part")
    met = mark.exists()
    mark.touch()
    assert met, "it did not start"
@pytest.mark.parametrize("number", range(5))
def test_with_it(part, number): pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("CI", raising=False)
    Path("pytest.ini").write_text("[pytest]\n")
    return tmp_path


def step(name: str, text: str, *, again: bool = True, options: tuple[str, ...] = (), root: bool = False) -> Step:
    Path(f"test_{name}.py").write_text(text)
    return Step(name, (f"test_{name}.py",), options, PYTEST, again=again, root=root)


def run(*lanes: tuple[Step, ...], root: bool = True) -> int:
    return Run(Tier("test", lanes=lanes), Path("out"), root=root).run()


def last_lines(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.rpartition("\n\n")[2]


def test_all_lanes_are_run_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("first", GOOD), step("second", GOOD)), (step("third", GOOD),)) == 0
    said = last_lines(capsys)
    assert said.endswith("3 passed, 0 failed, 0 skipped\n")
    assert "flaky: 0" in said
    assert "make test: passed in 0:0" in said


def test_what_passes_alone_is_named_with_its_first_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("flaky", FLAKY.format(count=2)), step("good", GOOD))) == 0
    said = last_lines(capsys)
    assert "flaky: 2\n    test_flaky.py::test_flaky[0]\n        call: AssertionError: the first time" in said
    assert said.endswith("3 passed, 0 failed, 0 skipped\n")


def test_a_fixture_that_failed_is_one_failure_however_many_tests_ask_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run((step("with_a_part", FLAKY_FIXTURE), step("good", GOOD))) == 0
    said = last_lines(capsys)
    assert "flaky: 1\n    test_with_a_part.py::test_with_it[0] and 4 more\n" in said
    assert "setup: AssertionError: it did not start" in said
    assert said.endswith("6 passed, 0 failed, 0 skipped\n")


def test_what_fails_twice_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("bad", BAD + GOOD),)) == 1
    said = last_lines(capsys)
    assert "FAILED test_bad.py::test_bad\n    call: assert (1 + 1) == 3" in said
    assert said.endswith("1 passed, 1 failed, 0 skipped\n")


def test_the_cause_is_told_though_its_message_begins_with_an_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("bad", "def test_bad(): raise ValueError('\\nthe guest gave no status')\n"),)) == 1
    assert "call: ValueError: the guest gave no status" in last_lines(capsys)


def test_a_test_without_excuse_is_not_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("flaky", FLAKY.format(count=1), again=False),)) == 1
    assert "flaky: 0" in last_lines(capsys)


def test_more_flakes_than_may_be_fail_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run((step("flaky", FLAKY.format(count=MOST_FLAKY + 1)),)) == 1
    assert last_lines(capsys).endswith(f"0 passed, {MOST_FLAKY + 1} failed, 0 skipped\n")


@pytest.mark.parametrize("text", ["import missing_module\n", "import os\ndef test(): os._exit(0)\n", "x = 1\n"])
def test_a_run_that_is_no_run_has_failed(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """It can't be collected, ends midway, or there is no test."""
    assert run((step("broken", text),)) == 1
    assert "1 failed" in last_lines(capsys)


def test_a_command_that_fails_fails_the_run() -> None:
    assert run((Step("check", command=("false",)), step("good", GOOD))) == 1


def test_who_is_not_root_is_told_what_was_left_out_and_ci_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (step("good", GOOD), step("nodes", BAD, root=True))
    assert run(steps, root=False) == 0
    said = last_lines(capsys)
    assert said.endswith("left out, since they need root: nodes; `sudo make test` runs them\n")
    monkeypatch.setenv("CI", "true")
    assert run(steps, root=False) == 1


def test_the_gate_leaves_out_what_is_thorough(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"import pytest\n@pytest.mark.thorough\n{BAD}{GOOD}"
    assert run((step("both", text, options=("--tier=gate",)),)) == 0
    assert last_lines(capsys).endswith("1 passed, 0 failed, 0 skipped\n")


def test_a_build_that_failed_is_made_again_after_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    once = ("sh", "-c", "[ -e built ] || { touch built; exit 3; }")
    assert run((Step("images", command=once, again=True), step("good", GOOD))) == 0
    said = last_lines(capsys)
    assert "flaky: 1\n    images\n        status 3" in said
    assert said.endswith("1 passed, 0 failed, 0 skipped\n")
