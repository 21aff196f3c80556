"""`dpipe check --sizes`: what each role loads, by component, with no weights downloaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffusion_worker.model import check
from diffusion_worker.model.weightfiles import WEIGHT_SUFFIXES
from diffusionpipeline.words import STAGES, Stage


@pytest.fixture
def command(hub, tmp_path, monkeypatch, capsys) -> Any:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, str]:
        status = check.main(["--sizes", *arguments])
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_what_is_told_is_what_is_downloaded(hub, fetched, command, tmp_path, variant):
    status, said = command("maker/sd3", "--json", "--variant", variant)
    told = {Stage(stage): sizes for stage, sizes in json.loads(said[said.index("{") :]).items()}

    assert status == 0
    assert not [name for name in hub.files_sent() if name.endswith(WEIGHT_SUFFIXES)]
    for stage in STAGES:
        path = fetched(stage, cache=tmp_path / stage, share={"variant": variant})
        for name, size in told[stage].items():
            assert size == sum(file.stat().st_size for file in (path / name).rglob("*")), f"{stage} {name}"


def test_it_is_told_in_words_the_largest_first(command):
    status, said = command("maker/sd3")
    lines = said.splitlines()[-3:]

    assert status == 0
    assert [line.split(":")[0] for line in lines] == ["encoder", "denoiser", "decoder"]
    assert lines[1].startswith("denoiser: 1.6 MB: transformer (1.5 MB), ")


def test_of_a_folder_it_is_told_as_well(command, published):
    status, said = command(str(published))

    assert status == 0
    assert said.splitlines()[-2].startswith("denoiser: 1.5 MB: transformer (1.5 MB)")


def test_what_the_hub_refuses_is_told(command):
    status, said = command("maker/nothing")

    assert status == 2
    assert "maker/nothing can't be served: model.id: " in said
