"""`python -m diffusion_worker.model.check`: real processes, one for the whole model and one for each role."""

from __future__ import annotations

import argparse
import copy
import io
import json
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import torch

from diffusion_worker.model import InvalidRequest, check, trial
from diffusion_worker.model.cases import cases_of, pictures
from diffusion_worker.model.failures import failure
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
    assert report["verdict"] == "served"
    assert report["uses"]["served"] == ["text", "image"]
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


def test_a_case_that_fails_is_its_own_outcome_and_ends_no_other(tmp_path):
    stages = [{"stage": stage, "digest": "a", "nbytes": 1, "seconds": 0.0, "ships": []} for stage in Stage]
    done = {"request": {}, "stages": stages}
    whole = {"cases": {"text": done, "image": {"failed": "denoise: it broke"}, "mask_image": {"refused": "mask_image"}}}
    cut = {
        stage: {
            "cases": {
                "text": {"stages": [stages[index]], "parking": None},
                "image": {"failed": "nothing came"},
                "mask_image": {"refused": "mask_image"},
            }
        }
        for index, stage in enumerate(Stage)
    }

    cases = {name: check.compare(name, whole, cut) for name in whole["cases"]}

    assert cases["text"]["identical"]
    assert cases["image"] == {"failed": "denoise: it broke", "by": "whole"}
    assert cases["mask_image"] == {"refused": "mask_image"}
    assert check.verdict(cases) == "partly"
    assert check.uses(cases) == {
        "served": ["text"],
        "not_served": {"image": "denoise: it broke"},
        "refused": {"mask_image": "mask_image"},
    }


def test_the_text_tells_served_uses_and_why_the_others_are_not():
    cases = {"image": {"failed": "denoise: it broke", "by": "whole"}, "mask_image": {"refused": "mask_image: no"}}
    report = {"model": "m", "pipeline": "P", "output": "image", "way": "replay", "dtype": "float32", "device": "cpu"}
    report |= {"small_copy": False, "roles": {}, "cases": cases, "uses": check.uses(cases), "verdict": "unfit"}

    told = check._text(report)

    assert "from image: NOT served: denoise: it broke (the whole model)" in told
    assert "from mask_image: no use of this model: mask_image: no" in told
    assert told.endswith("NOT served: image\n")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([{"identical": True}, {"refused": "no image"}], "served"),
        ([{"identical": True}, {"identical": False}], "partly"),
        ([{"identical": True}, {"failed": "denoise: it broke"}], "partly"),
        ([{"failed": "denoise: it broke"}, {"refused": "no image"}], "unfit"),
        ([{"refused": "no text"}, {"refused": "no image"}], "refused"),
    ],
)
def test_the_verdict_follows_from_the_uses_that_a_model_takes(outcomes, verdict):
    assert check.verdict({str(number): outcome for number, outcome in enumerate(outcomes)}) == verdict


def test_a_case_is_made_of_each_picture_that_a_model_takes_and_of_all_together():
    model = SimpleNamespace(
        workflows=[SimpleNamespace(images=frozenset())],
        image_inputs=frozenset({"image", "mask_image"}),
        several_inputs=frozenset(),
    )

    uses = cases_of(model, {"prompt": "a", "num_inference_steps": 2}, 64)

    assert [*uses] == ["text", "image", "mask_image", "image and mask_image"]
    assert uses["text"] == {"prompt": "a", "num_inference_steps": 2}
    assert uses["image"]["images"] == {"image": [64, 64]}
    assert uses["image"]["num_inference_steps"] == 3


def test_a_model_that_takes_several_pictures_is_asked_with_two():
    model = SimpleNamespace(
        workflows=[SimpleNamespace(images=frozenset({"image"}))],
        image_inputs=frozenset({"image"}),
        several_inputs=frozenset({"image"}),
    )

    uses = cases_of(model, {"prompt": "a"}, 64)

    assert [*uses] == ["image", "several image"]
    first, second = pictures(uses["several image"]["images"])["image"]
    assert first.size == second.size == (64, 64)
    assert first.tobytes() != second.tobytes()


def test_a_mask_says_where_and_a_picture_what():
    made = pictures({"image": (16, 8), "mask_image": (16, 8)})

    assert made["image"].mode == "RGB"
    assert set(made["mask_image"].tobytes()) == {0, 255}
    assert made["image"].size == made["mask_image"].size == (16, 8)


def test_a_video_is_frames_that_move():
    frames = pictures({"video": (16, 8)})["video"]

    assert len(frames) == 9
    assert {one.size for one in frames} == {(16, 8)}
    assert len({one.tobytes() for one in frames}) == 9


def test_an_error_at_the_start_names_the_picture_that_the_request_lacks():
    found = failure(Stage.ENCODE, "SomePipeline", TypeError("image must be passed"), absent=["control_image"])

    assert isinstance(found, InvalidRequest)
    assert str(found) == "control_image: not in the request, and SomePipeline does not go without: image must be passed"


@pytest.mark.parametrize("error", [KeyError("frames"), AssertionError(), AttributeError("no attribute 'size'")])
def test_no_failure_is_told_by_the_name_of_an_exception(error):
    found = failure(Stage.DENOISE, "SomePipeline", error)

    assert type(error).__name__ not in str(found)
    assert str(found).startswith("denoise: SomePipeline: ")
    assert len(str(found)) > len("denoise: SomePipeline: ")


def test_what_is_no_model_is_reported_and_not_raised(tmp_path, capsys):
    assert check.main([str(tmp_path), "--json"]) == 2

    assert "model_index.json" in json.loads(capsys.readouterr().out)["error"]
