"""What holds for the settings of operator, router and worker alike."""

from __future__ import annotations

import os

import pytest

from diffusion_operator.settings import Settings as OperatorSettings
from diffusion_router.settings import Settings as RouterSettings
from diffusion_worker.settings import Settings as WorkerSettings
from diffusionpipeline.process.settings import ProcessSettings

Program = type[ProcessSettings]
NEEDED: dict[Program, list[str]] = {WorkerSettings: ["--role", "encoder"]}

pytestmark = pytest.mark.parametrize("program", [OperatorSettings, RouterSettings, WorkerSettings])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DIFFUSION_"):
            monkeypatch.delenv(name)


def prefix(program: Program) -> str:
    return program.model_config["env_prefix"]


def refusal(program: Program, *flags: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of wrong settings: one line."""
    with pytest.raises(SystemExit) as ended:
        program.read([*NEEDED.get(program, []), *flags])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_an_empty_variable_is_one_that_is_not_set_whatever_its_type(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = NEEDED.get(program, [])
    unset = program.read(flags)
    for name in program.model_fields:
        monkeypatch.setenv(f"{prefix(program)}{name.upper()}", "")
    assert program.read(flags) == unset


def test_a_flag_wins_over_its_variable(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{prefix(program)}LOG_LEVEL", "error")
    assert program.read(NEEDED.get(program, [])).log_level == "error"
    assert program.read([*NEEDED.get(program, []), "--log-level", "debug"]).log_level == "debug"


@pytest.mark.parametrize(
    ("flag", "choices"), [("--log-level", "'debug', 'info', 'warning' or 'error'"), ("--log-format", "'auto', 'json'")]
)
def test_logs_have_the_same_choices_and_a_wrong_one_names_program_flag_and_variable(
    program: Program, flag: str, choices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(program, flag, "loud", capsys=capsys)
    name = prefix(program).rstrip("_").lower()
    variable = prefix(program) + flag.removeprefix("--").replace("-", "_").upper()
    assert said.startswith(f"{name}: {flag} ({variable}): Input should be {choices}")
    assert said.endswith(", not 'loud'")


@pytest.mark.parametrize(("flags", "named"), [(["--colour", "red"], "--colour"), (["--log-level"], "--log-level")])
def test_flags_that_make_no_sense_end_with_status_2_and_a_line_that_leads_to_help(
    program: Program, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(program, *flags, capsys=capsys)
    assert named in said
    assert said.endswith("; --help lists the flags")


def test_help_names_every_flag_on_stdout(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.read(["--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in program.model_fields:
        assert f"--{name.replace('_', '-')} " in out
