from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_router.settings import Settings


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
