"""`python -m diffusion_worker.model.check`: real processes, one for the whole model and one for each role."""

from __future__ import annotations

import argparse
import copy
import io
import json
from contextlib import redirect_stdout

import pytest
import torch

from diffusion_worker.model import check, trial
from diffusionpipeline.words import Stage

# Five processes, each of which imports or forks torch, on a machine that may be busy.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def report() -> dict:
    output = io.StringIO()
    with redirect_stdout(output):
        code = check.main(["digits", "--quick", "--json", "--dtype", "bfloat16"])
    return {"code": code} | json.loads(output.getvalue())


def test_a_small_random_copy_of_a_model_is_found_identical(report):
    assert report["code"] == 0
    assert report["identical"]
    assert report["small_copy"]
    assert report["way"] == "modular"
    assert all(case["identical"] for case in report["cases"].values())


def test_the_report_says_what_each_role_loads_and_ships(report):
    weights = {
        stage: {one["name"]: one["bytes"] for one in role["components"] if one["bytes"]}
        for stage, role in report["roles"].items()
    }
    shipped = {one["name"]: one for one in report["cases"]["text"]["stages"]["encode"]["ships"]}

    assert {stage: set(names) for stage, names in weights.items()} == {
        "encode": {"text_encoder", "text_encoder_2", "vae"},
        "denoise": {"transformer"},
        "decode": {"vae"},
    }
    assert shipped["inputs.prompt_embeds"]["dtype"] == "bfloat16"
    assert shipped["inputs.prompt_embeds"]["bytes"] == 2 * 16 * 96


def test_the_report_says_whether_a_denoising_can_be_parked_and_what_a_checkpoint_adds(report):
    parking = [case["parking"] for case in report["cases"].values()]
    assert [one["resumable"] for one in parking] == [True] * len(report["cases"])
    latents = report["cases"]["text"]["stages"]["denoise"]["ships"]
    smallest = sum(one["bytes"] for one in latents if one["name"] == "inputs.latents")
    assert smallest < parking[0]["nbytes"] < smallest + 16_384


def test_the_trials_of_a_check_share_no_random_state(tmp_path):
    options = argparse.Namespace(work=tmp_path, threads=1)

    drawn = [trial._forked(lambda options: {"drawn": torch.rand(1).item()}, options, name) for name in ("a", "b")]

    assert drawn[0] != drawn[1]


def test_one_payload_that_differs_is_enough_to_fail():
    stages = [{"stage": stage, "digest": "a", "nbytes": 1, "seconds": 0.0, "ships": []} for stage in Stage]
    whole = {"cases": {"text": {"request": {}, "stages": stages}}}
    split = {
        stage: {"cases": {"text": {"stages": [copy.deepcopy(stages[index])], "parking": None}}}
        for index, stage in enumerate(Stage)
    }
    assert check.compare("text", whole, split)["identical"]

    split[Stage.DENOISE]["cases"]["text"]["stages"][0]["digest"] = "b"

    case = check.compare("text", whole, split)
    assert not case["identical"]
    assert [stage for stage, made in case["stages"].items() if not made["identical"]] == ["denoise"]


def test_what_is_no_model_is_reported_and_not_raised(tmp_path, capsys):
    assert check.main([str(tmp_path), "--json"]) == 2

    assert "model_index.json" in json.loads(capsys.readouterr().out)["error"]
