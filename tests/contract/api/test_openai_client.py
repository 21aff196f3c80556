"""The real `openai` package against a real router."""

from __future__ import annotations

import base64
from io import BytesIO

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Video
from PIL import Image

from contract.api.artist import VIDEO, Artist, picture, until
from contract.router.conftest import DEADLINE, Router
from testbed.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


async def test_an_image_comes_back_as_base64_by_default(client: AsyncOpenAI, artist: Artist) -> None:
    answer = await client.images.generate(prompt="a red seven", model="scripted", extra_body={"seed": 5})
    assert answer.data is not None and answer.data[0].b64_json is not None
    assert base64.b64decode(answer.data[0].b64_json) == picture(shade=5)
    assert answer.created > 0
    assert answer.output_format == "png"
    assert answer.data[0].model_extra == {"seed": 5}


async def test_n_images_are_n_jobs_with_seeds_that_rise_by_one(client: AsyncOpenAI, artist: Artist) -> None:
    answer = await client.images.generate(prompt="a red seven", n=3, extra_body={"seed": 10})
    assert [base64.b64decode(datum.b64_json) for datum in answer.data] == [picture(shade=10 + i) for i in range(3)]
    assert [datum.model_extra["seed"] for datum in answer.data] == [10, 11, 12]
    assert len(set(answer.model_extra["jobs"])) == 3


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
async def test_an_image_has_the_format_that_was_asked_for(
    client: AsyncOpenAI, artist: Artist, output_format: str
) -> None:
    answer = await client.images.generate(prompt="a red seven", output_format=output_format)
    image = Image.open(BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert image.format == output_format.upper()


async def test_an_image_by_url_can_be_fetched_there(client: AsyncOpenAI, artist: Artist) -> None:
    answer = await client.images.generate(prompt="a red seven", response_format="url", extra_body={"seed": 7})
    async with httpx.AsyncClient() as http:
        fetched = await http.get(answer.data[0].url)
    assert fetched.content == picture(shade=7)
    assert fetched.headers["content-type"] == "image/png"


async def test_flat_fields_and_model_args_reach_the_worker(client: AsyncOpenAI, artist: Artist) -> None:
    await client.images.generate(
        prompt="a red seven",
        size="128x64",
        user="somebody",
        extra_body={
            "negative_prompt": "blue",
            "num_inference_steps": 7,
            "guidance_scale": 2.5,
            "max_sequence_length": 77,
            "model_args": {"eta": 0.5, "clip_skip": 2, "mode": "fast", "tiled": True},
        },
    )
    got = artist.executed[0].parameters
    assert (got.prompt, got.negative_prompt, got.width, got.height) == ("a red seven", "blue", 128, 64)
    assert (got.num_inference_steps, got.guidance_scale) == (7, 2.5)
    extra = {name: getattr(scalar, scalar.WhichOneof("value")) for name, scalar in got.extra.items()}
    assert extra == {"max_sequence_length": 77, "eta": 0.5, "clip_skip": 2, "mode": "fast", "tiled": True}
    assert isinstance(extra["tiled"], bool)


async def test_size_auto_leaves_the_size_to_the_model(client: AsyncOpenAI, artist: Artist) -> None:
    await client.images.generate(prompt="a red seven", size="auto")
    assert not artist.executed[0].parameters.HasField("width")


@pytest.mark.parametrize("as_list", [False, True])
async def test_an_edit_sends_its_picture_to_the_worker(
    client: AsyncOpenAI, artist: Artist, router: Router, as_list: bool
) -> None:
    source = ("in.png", picture(shade=99), "image/png")
    answer = await client.images.edit(
        image=[source] if as_list else source,
        prompt="make it blue",
        mask=("mask.png", picture(shade=1), "image/png"),
        extra_body={"strength": 0.4, "num_inference_steps": 3, "seed": 3, "model_args": {"eta": 0.5, "tiled": True}},
    )
    assert base64.b64decode(answer.data[0].b64_json) == picture(shade=3)
    got = artist.executed[0].parameters
    assert (got.strength, got.num_inference_steps) == (0.4, 3)
    assert (got.extra["eta"].double_value, got.extra["tiled"].bool_value) == (0.5, True)
    assert sorted(file.name for file in got.inputs) == ["image", "mask_image"]
    sent = next(file for file in got.inputs if file.name == "image")
    assert (router.settings.data_dir / "artifacts" / sent.key).read_bytes() == picture(shade=99)


async def test_several_pictures_of_an_edit_reach_the_worker_in_their_order(
    client: AsyncOpenAI, http: httpx.AsyncClient, artist: Artist, router: Router
) -> None:
    shades = (50, 10, 90)
    files = [(f"{shade}.png", picture(shade=shade), "image/png") for shade in shades]
    await client.images.edit(image=files, prompt="all three together", extra_body={"seed": 3})
    await http.post(
        "/v1/images/edits", data={"prompt": "all three together"}, files=[("image", file) for file in files]
    )
    for task in artist.executed:
        inputs = task.parameters.inputs
        assert [file.name for file in inputs] == ["image"] * len(shades)
        kept = [(router.settings.data_dir / "artifacts" / file.key).read_bytes() for file in inputs]
        assert kept == [picture(shade=shade) for shade in shades]
    assert len({task.job_id for task in artist.executed}) == 2


async def test_a_video_is_led_by_a_video_its_masks_and_pictures(http: httpx.AsyncClient, film_maker: Artist) -> None:
    files = [
        ("control_video", ("c.gif", picture("GIF"), "image/gif")),
        ("mask_video", ("m.mp4", VIDEO, "video/mp4")),
        ("reference_images[]", ("a.png", picture(), "image/png")),
        ("reference_images[]", ("b.jpeg", picture("JPEG"), "image/jpeg")),
        ("last_image", ("l.png", picture(), "image/png")),
    ]
    answer = await http.post("/v1/videos", data={"prompt": "turn"}, files=files)
    assert answer.status_code == 200, answer.text
    await film_maker.denoising.wait()
    got = [(file.name, file.media_type) for file in film_maker.executed[0].parameters.inputs]
    assert got == [
        ("control_video", "image/gif"),
        ("mask_video", "video/mp4"),
        ("reference_images", "image/png"),
        ("reference_images", "image/jpeg"),
        ("last_image", "image/png"),
    ]


async def test_a_video_is_made_polled_listed_fetched_and_deleted(client: AsyncOpenAI, film_maker: Artist) -> None:
    made = await client.videos.create_and_poll(
        prompt="a seven that turns", seconds="1", size="64x64", poll_interval_ms=20, extra_body={"fps": 8}
    )
    assert (made.status, made.progress, made.seconds, made.size) == ("completed", 100, "1", "64x64")
    assert made.expires_at is not None and made.completed_at is not None and made.expires_at > made.completed_at
    got = film_maker.executed[0].parameters
    assert (got.fps, got.num_frames, got.output_format) == (8, 8, "mp4")
    assert (await client.videos.download_content(made.id)).content == VIDEO
    assert [video.id async for video in client.videos.list()] == [made.id]
    deleted = await client.videos.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        await client.videos.retrieve(made.id)


async def test_a_video_starts_from_a_picture(client: AsyncOpenAI, film_maker: Artist) -> None:
    await client.videos.create(prompt="turn", input_reference=("in.png", picture(), "image/png"))
    await film_maker.denoising.wait()
    assert [file.name for file in film_maker.executed[0].parameters.inputs] == ["image"]


async def test_a_videos_progress_is_made_of_real_steps_and_deleting_it_stops_it(
    client: AsyncOpenAI, film_maker: Artist
) -> None:
    film_maker.allowed.clear()
    video = await client.videos.create(prompt="turn")
    assert video.status == "queued" or video.status == "in_progress"
    await film_maker.denoising.wait()

    async def under_way() -> Video | None:
        found = await client.videos.retrieve(video.id)
        return found if found.progress else None

    video = await eventually(under_way, DEADLINE, "progress is told")
    assert (video.status, video.progress) == ("in_progress", 50)
    with pytest.raises(openai.BadRequestError, match="not finished"):
        await client.videos.download_content(video.id)
    await client.videos.delete(video.id)
    await until(lambda: film_maker.cancelled == [video.id])
    after = await client.videos.retrieve(video.id)
    assert (after.status, after.error.code) == ("failed", "cancelled")


async def test_videos_are_listed_page_by_page(client: AsyncOpenAI, film_maker: Artist) -> None:
    made = [(await client.videos.create(prompt=f"number {index}")).id for index in range(5)]
    assert [video.id async for video in client.videos.list(limit=2)] == made[::-1]
    assert [video.id async for video in client.videos.list(limit=2, order="asc")] == made
    with pytest.raises(openai.BadRequestError, match="no video 'nobody'"):
        await client.videos.list(after="nobody")


async def test_models_are_those_that_workers_serve(client: AsyncOpenAI, artist: Artist) -> None:
    assert [model.id async for model in client.models.list()] == ["scripted"]
    assert (await client.models.retrieve("scripted")).owned_by == "diffusion-operator"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-image-1")


async def test_another_model_is_not_found(client: AsyncOpenAI, artist: Artist) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.images.generate(prompt="a red seven", model="gpt-image-1")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "scripted is" in caught.value.message


async def test_images_are_not_asked_of_a_model_of_videos(client: AsyncOpenAI, film_maker: Artist) -> None:
    with pytest.raises(openai.BadRequestError, match="use /v1/videos"):
        await client.images.generate(prompt="a red seven")
