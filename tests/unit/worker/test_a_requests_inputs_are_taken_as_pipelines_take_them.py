"""Pictures and videos of a request: by a pipeline's own names, as many as it takes, as long and large as it is told."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from PIL import Image

from diffusion_worker.model.arguments import check_images
from diffusion_worker.model.classic import bind_call
from diffusion_worker.model.inputs import as_taken
from diffusion_worker.model.types import InvalidRequest, Parameters

TAKES = ["image", "mask", "reference_images", "video"]


def still(width: int = 32, height: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height))


def film(frames: int, width: int = 32, height: int = 32) -> list[Image.Image]:
    return [still(width, height) for _ in range(frames)]


def taken(**images: Any) -> dict[str, Any]:
    return as_taken(images, takes=TAKES, several={"reference_images"}, pipeline="APipeline")


def called(name: str, **fields: Any) -> dict[str, Any]:
    given = Parameters(prompt="waves", seed=1, output_format="mp4", **fields)
    return bind_call(getattr(diffusers, name), given, {})[0]


def test_a_list_of_one_is_one_where_one_is_taken() -> None:
    one = still()
    assert taken(image=[one]) == {"image": one}
    assert taken(reference_images=[one]) == {"reference_images": [one]}


def test_several_pictures_keep_their_order() -> None:
    three = [still(width) for width in (1, 2, 3)]
    assert taken(reference_images=three)["reference_images"] == three


def test_two_where_one_is_taken_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="image: APipeline takes one picture, and the request has 2"):
        taken(image=film(2))


def test_a_request_calls_a_video_by_one_name_whatever_pipelines_call_it() -> None:
    frames = film(3)
    assert taken(mask_video=frames) == {"mask": frames}
    with pytest.raises(InvalidRequest, match="control_video: APipeline takes image, mask_video, reference_images, vid"):
        taken(control_video=frames)


class Blocks:
    name = "SomeBlocks"
    image_inputs = frozenset({"image", "mask_image", "last_image"})
    workflows = {  # noqa: RUF012
        "draw": {"prompt": True},
        "edit": {"image": True},
        "mend": {"image": True, "mask_image": True},
        "end": {"last_image": True},
    }


@pytest.mark.parametrize("images", [[], ["image"], ["image", "mask_image"], ["image", "last_image"]])
def test_inputs_that_make_up_workflows_are_taken(images: list[str]) -> None:
    cut: Any = Blocks()
    check_images(images, cut)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["mask_image"], "^image: needed by SomeBlocks, but not in the request"),
        (["last_image", "mask_image"], "^last_image, mask_image: SomeBlocks does not take these together"),
    ],
)
def test_a_mask_without_its_picture_is_refused(images: list[str], words: str) -> None:
    cut: Any = Blocks()
    with pytest.raises(InvalidRequest, match=words):
        check_images(images, cut)


def test_a_later_role_is_told_names_alone() -> None:
    assert taken(image=None, mask_video=None) == {"image": None, "mask": None}


def test_a_video_that_leads_says_how_long_the_result_is_and_is_scaled_to_its_size() -> None:
    call = called("WanVACEPipeline", width=16, height=24, images={"video": film(5), "mask_video": film(5, 8, 8)})
    assert call["num_frames"] == 5
    assert {frame.size for frame in call["video"] + call["mask"]} == {(16, 24)}
    assert {frame.size for frame in called("WanVACEPipeline", images={"video": film(5)})["video"]} == {(832, 480)}


def test_a_video_that_leads_is_scaled_to_the_folders_own_size_where_a_request_gives_none() -> None:
    given = Parameters(prompt="waves", seed=1, output_format="mp4", images={"video": film(5)})

    call, _ = bind_call(diffusers.WanVACEPipeline, given, {"width": 16, "height": 24})

    assert (call["width"], call["height"]) == (16, 24)
    assert {frame.size for frame in call["video"]} == {(16, 24)}


def test_how_many_frames_goes_by_the_pipelines_own_name() -> None:
    assert called("SanaVideoPipeline", num_frames=9)["frames"] == 9
    assert called("LattePipeline", num_frames=9)["video_length"] == 9


def test_of_a_longer_video_the_first_frames_count() -> None:
    frames = [still(width) for width in range(32, 43)]
    call = called("WanVACEPipeline", num_frames=9, width=32, height=32, images={"video": frames})
    assert (call["num_frames"], len(call["video"])) == (9, 9)
    assert call["video"][0] == frames[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_frames": 9, "images": {"video": film(5)}}, "num_frames: 9 are asked for, but video has 5"),
        (
            {"images": {"video": film(5), "mask_video": film(9)}},
            r"num_frames: the videos are not of one length \(video has 5, mask_video has 9\)",
        ),
    ],
)
def test_videos_of_another_length_than_is_asked_for_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        called("WanVACEPipeline", **fields)


@pytest.mark.parametrize(
    ("pipeline", "name"), [("CogVideoXVideoToVideoPipeline", "video"), ("CogVideoXFunControlPipeline", "control_video")]
)
def test_a_video_that_a_pipeline_needs_is_missed_by_name(pipeline: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: needed by {pipeline}, but not in the request"):
        called(pipeline)


@pytest.mark.parametrize("pipeline", ["StableDiffusionInpaintPipeline", "FluxFillPipeline"])
def test_a_mask_is_refused_where_none_is_taken_and_taken_elsewhere(pipeline: str) -> None:
    images = {"image": still(), "mask_image": still()}
    assert {"image", "mask_image"} <= called(pipeline, images=images).keys()
    with pytest.raises(InvalidRequest, match=r"^mask_image: StableDiffusionImg2ImgPipeline takes image"):
        called("StableDiffusionImg2ImgPipeline", images=images)
