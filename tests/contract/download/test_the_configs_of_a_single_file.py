"""`dpipe convert` with a hub's repository as config: index, configs and tokenizers are fetched, and no weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffusion_worker.model import convert, singlefile
from diffusion_worker.model.weightfiles import WEIGHT_SUFFIXES
from testbed import single_files
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import SD15


@pytest.fixture(autouse=True)
def hub_of_this_test(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("signal.signal", lambda *given: None)
    hub.add("maker/sd15", ensure(SD15))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return single_files.ldm(ensure(SD15), tmp_path / "my.safetensors")


@pytest.mark.parametrize("given", [("--config", "maker/sd15"), ()], ids=["named", "by diffusers' guess"])
def test_a_repository_gives_configs_alone(
    given: tuple[str, ...], hub, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singlefile.SingleFile, "configs", lambda self: "maker/sd15")
    assert convert.main([str(file), str(tmp_path / "made"), *given]) == 0
    assert (tmp_path / "made" / "tokenizer" / "tokenizer.json").is_file()
    assert not (tmp_path / "made" / "unet").joinpath("config.json").is_symlink()
    assert not [name for name in hub.files_sent() if name.endswith(WEIGHT_SUFFIXES)]


def test_a_repository_that_is_not_there_is_named(file: Path, tmp_path: Path, capsys) -> None:
    assert convert.main([str(file), str(tmp_path / "made"), "--config", "maker/none"]) == 2
    said = capsys.readouterr().out
    assert "maker/none on the hub, which can't be had" in said
    assert "--config" in said


def test_what_was_fetched_once_does_without_the_hub(
    hub, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert.main([str(file), str(tmp_path / "made"), "--config", "maker/sd15"]) == 0
    shutil.rmtree(tmp_path / "made")
    hub.forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert convert.main([str(file), str(tmp_path / "made"), "--config", "maker/sd15"]) == 0
    assert not hub.asked()
