from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from diffusion_operator.render import render
from diffusion_router.core import Deadline, Fifo
from diffusion_router.settings import Settings
from testbed.documents import ROOT
from unit.render.children import environment, pipeline, stateful_sets


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DIFFUSION_ROUTER_{name.upper()}", raising=False)


def test_a_flag_wins_over_the_environment_and_both_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_ROUTER_HTTP_PORT", "1111")
    monkeypatch.setenv("DIFFUSION_ROUTER_MAX_STEPS", "7")
    settings = Settings.read(["--http-port", "2222", "--pipeline=digits"])
    assert (settings.http_port, settings.max_steps, settings.pipeline) == (2222, 7, "digits")
    assert settings.limits.max_steps == 7


def test_stores_lie_in_the_data_folder_unless_named(tmp_path: Path) -> None:
    settings = Settings.read(["--data-dir", str(tmp_path)])
    assert settings.resolved_store_url == f"sqlite:///{tmp_path}/jobs.db"
    assert settings.resolved_artifacts_url == f"{tmp_path}/artifacts"
    named = Settings.read(["--store-url", "postgresql://db/jobs", "--artifacts-url", "s3://bucket/files"])
    assert (named.resolved_store_url, named.resolved_artifacts_url) == ("postgresql://db/jobs", "s3://bucket/files")


def test_a_wrong_setting_is_named_by_flag_and_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFUSION_ROUTER_LEASE_SECONDS", "-1")
    with pytest.raises(SystemExit) as caught:
        Settings.read(["--http-port", "many"])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert "diffusion_router: --http-port (DIFFUSION_ROUTER_HTTP_PORT): " in text
    assert "--lease-seconds (DIFFUSION_ROUTER_LEASE_SECONDS): Input should be greater than 0, not '-1'" in text


def test_the_bounds_that_sizing_names_are_the_defaults() -> None:
    page = (ROOT / "docs/sizing.md").read_text()
    units = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
    named = {
        flag.replace("-", "_"): int(number) * units[unit]
        for flag, number, unit in re.findall(r"^\| `--([a-z-]+)` \((\d+) ?(KiB|MiB|)\)", page, re.MULTILINE)
    }
    assert len(named) == 10
    assert named == {name: Settings.model_fields[name].default for name in named}


def test_there_is_room_for_one_upload_whatever_may_be_in_flight() -> None:
    limits = Settings.read(["--max-upload-bytes=1000", "--max-body-bytes-in-flight=10"]).limits
    assert limits.max_body_bytes_in_flight == 1000


def test_connections_are_as_many_as_are_asked_for_or_as_there_is_room_for() -> None:
    settings = Settings.read(["--max-connections=100"])
    assert settings.http_bounds(1000).max_connections == 100
    assert settings.http_bounds(16).max_connections == 16


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({}, Deadline(target_factor=3.0, late_share=4)),
        ({"policy": "Deadline"}, Deadline(target_factor=3.0, late_share=4)),
        ({"targetFactor": 1000, "lateShare": 0}, Deadline(target_factor=1000.0, late_share=0)),
        ({"targetFactor": 1, "lateShare": 1000}, Deadline(target_factor=1.0, late_share=1000)),
        ({"policy": "Fifo"}, Fifo()),
    ],
)
def test_what_a_resource_says_of_the_order_of_jobs_is_what_the_router_hears(
    said: dict[str, Any], heard: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(stateful_sets(render(pipeline(scheduling=said)))["router"]).items():
        if name.startswith("DIFFUSION_ROUTER_"):
            monkeypatch.setenv(name, value)
    assert Settings().scheduling == heard


@pytest.mark.parametrize(
    ("flag", "value"), [("--scheduling-policy", "Random"), ("--target-factor", "0.5"), ("--late-share", "-1")]
)
def test_an_order_that_cannot_be_is_refused_by_its_flag(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Settings.read([flag, value])
    variable = "DIFFUSION_ROUTER_" + flag.removeprefix("--").replace("-", "_").upper()
    assert f"{flag} ({variable}): Input should be" in capsys.readouterr().err


@pytest.mark.parametrize(("denoiser", "heard"), [({}, 0.0), ({"checkpointSeconds": 1}, 1.0)])
def test_what_a_resource_says_of_checkpoints_is_what_the_router_hears(
    denoiser: dict[str, Any], heard: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = render(pipeline(roles={"encoder": {}, "denoiser": denoiser, "decoder": {}}))
    for name, value in environment(stateful_sets(children)["router"]).items():
        if name.startswith("DIFFUSION_ROUTER_"):
            monkeypatch.setenv(name, value)
    assert Settings().checkpoint_seconds == heard
