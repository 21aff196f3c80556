"""I5: three processes make the same bytes as one, for every family, in both precisions."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from PIL import Image

from testbed.zoo import FAMILIES
from testbed.zoo.processes import Case, RoleError

DTYPES = ("float32", "bfloat16")
REPLAYED = [name for name, family in FAMILIES.items() if family.way == "replay"]
VIDEOS = [name for name, family in FAMILIES.items() if family.output == "video"]
WITH_PICTURE = [name for name, family in FAMILIES.items() if family.images or family.videos]

# The first test also waits for the processes.
pytestmark = pytest.mark.timeout(900)

each_family = pytest.mark.parametrize("family", FAMILIES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_family
@each_dtype
def test_split_equals_whole(pipeline: Any, family: str, dtype: str) -> None:
    outcome = pipeline.run(Case(family, dtype))
    split, whole = outcome["split"], outcome["whole"]
    assert split["denoised"] == whole["denoised"]
    assert split["pixels"] == whole["pixels"]
    assert split["files"] == whole["files"]


@each_family
def test_the_file_has_the_size_that_was_asked_for(pipeline: Any, family: str) -> None:
    request = FAMILIES[family].request
    (file,) = pipeline.run(Case(family))["split"]["files"]
    assert (file.width, file.height) == (request["width"], request["height"])
    assert file.num_frames == FAMILIES[family].frames
    if FAMILIES[family].output == "image":
        assert Image.open(io.BytesIO(file.data)).size == (file.width, file.height)


@each_family
def test_each_role_loads_its_own_weights_alone(pipeline: Any, family: str) -> None:
    case = Case(family)
    encoder, denoiser, decoder = (
        process.call("describe", case) for process in (pipeline.encoder, pipeline.denoiser, pipeline.decoder)
    )
    assert encoder["way"] == FAMILIES[family].way
    assert encoder["output"] == FAMILIES[family].output
    loaded = [set(role["loaded"]) for role in (encoder, denoiser, decoder)]
    assert set.union(*loaded) == set(encoder["weights"])
    assert not loaded[1] & (loaded[0] | loaded[2])
    # An encoder needs the VAE too, to make latents of an input picture; and nothing else of the decoder's.
    assert loaded[0] & loaded[2] <= {"vae"}


@each_family
def test_a_retry_makes_the_same_bytes(pipeline: Any, family: str) -> None:
    case = Case(family)
    first = pipeline.run(case)["split"]
    assert pipeline.split(case) == first


@each_family
def test_steps_are_reported_one_by_one(pipeline: Any, family: str) -> None:
    steps = pipeline.run(Case(family))["split"]["steps"]
    total = len(steps)
    assert total > 1
    assert steps == [(step, total) for step in range(1, total + 1)]


@each_family
def test_a_cancelled_denoising_stops_at_its_step_and_leaves_no_trace(pipeline: Any, family: str) -> None:
    case = Case(family)
    split = pipeline.run(case)["split"]
    assert pipeline.denoiser.call("cancel", case, split["encoded"], at=1) == 1
    assert pipeline.denoiser.call("denoise", case, split["encoded"])[0] == split["denoised"]


@each_family
def test_another_seed_makes_another_result(pipeline: Any, family: str) -> None:
    other = pipeline.split(Case(family, changes=(("seed", 8),)))
    assert other["pixels"] != pipeline.run(Case(family))["split"]["pixels"]


@pytest.mark.parametrize("family", REPLAYED)
def test_replay_makes_what_the_plain_pipeline_makes(pipeline: Any, family: str) -> None:
    # Not bit for bit: a tensor that was sent is contiguous, and another layout may take another kernel.
    assert pipeline.whole.call("distance_to_plain", Case(family)) < 1e-5


@pytest.mark.parametrize("family", VIDEOS)
def test_a_video_is_an_mp4_that_can_be_decoded(pipeline: Any, family: str) -> None:
    (file,) = pipeline.run(Case(family))["split"]["files"]
    assert file.media_type == "video/mp4"
    with av.open(io.BytesIO(file.data)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == FAMILIES[family].frames
    assert {(frame.width, frame.height) for frame in frames} == {(file.width, file.height)}


@pytest.mark.parametrize("family", WITH_PICTURE)
def test_another_input_picture_makes_another_result(pipeline: Any, family: str) -> None:
    other = pipeline.split(Case(family, picture=1))
    assert other["pixels"] != pipeline.run(Case(family))["split"]["pixels"]


@pytest.mark.parametrize("family", ["sdxl-image-to-image", "sd15-image-to-image"])
def test_without_the_generators_state_the_result_differs(pipeline: Any, family: str) -> None:
    case = Case(family)
    split = pipeline.run(case)["split"]
    forgetful, _ = pipeline.denoiser.call("denoise", case, split["encoded"], fresh_generator=True)
    assert pipeline.decoder.call("decode", case, forgetful)["pixels"] != split["pixels"]


@pytest.mark.parametrize("family", ["sdxl", "flux", "qwen-image", "z-image", "sana", "pixart-sigma"])
def test_without_shells_the_result_is_wrong(pipeline: Any, family: str) -> None:
    split = pipeline.run(Case(family))["split"]
    bare = Case(family, without_shells=True)
    try:
        denoised, _ = pipeline.denoiser.call("denoise", bare, split["encoded"])
        pixels = pipeline.decoder.call("decode", Case(family), denoised)["pixels"]
    except RoleError:
        return
    assert pixels != split["pixels"]
