"""A pipeline that can't be cut is refused when it is loaded, and the message says what stands in the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
from PIL import Image

from diffusion_worker.model import InvalidRequest, ModelError, Parameters, UnsupportedModel
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.folder import open_folder
from diffusion_worker.model.replay import ReplayModel
from diffusion_worker.model.soundness import check_arguments, check_cut
from diffusionpipeline.words import Stage
from testbed.zoo import FAMILIES, ensure


def load(path: Path, *stages: Stage) -> ReplayModel:
    return ReplayModel(open_folder(path), stages=frozenset(stages), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def encoder() -> ReplayModel:
    return load(ensure(FAMILIES["sd15"].checkpoint), Stage.ENCODE)


@pytest.mark.parametrize("name", ["HunyuanVideoFramepackPipeline", "HeliosPipeline", "WanAnimatePipeline"])
def test_decoding_inside_of_the_loop_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"vae\.decode inside of its denoising loop"):
        check_cut(getattr(diffusers, name), {"vae": diffusers.AutoencoderKL})


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "CogVideoXPipeline", "SanaPipeline", "MochiPipeline"])
def test_decoding_once_after_the_loop_is_accepted(name: str) -> None:
    check_cut(getattr(diffusers, name), {"vae": diffusers.AutoencoderKL})


@pytest.mark.parametrize("name", ["StableDiffusionPAGPipeline", "StableDiffusionSAGPipeline"])
def test_what_changes_or_watches_the_inside_of_a_network_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"inside of its network while it denoises \(self\.unet\."):
        check_cut(getattr(diffusers, name), {"vae": diffusers.AutoencoderKL})


def test_denoising_with_copies_of_the_scheduler_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="copies of its scheduler"):
        check_cut(diffusers.SkyReelsV2DiffusionForcingPipeline, {"vae": diffusers.AutoencoderKLWan})


def test_a_part_of_the_decoder_that_is_used_by_itself_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"vqvae\.quantize apart from vqvae's encode and decode"):
        check_cut(diffusers.AmusedImg2ImgPipeline, {"vqvae": diffusers.VQModel})


def test_an_argument_that_no_request_can_carry_is_refused_and_one_that_a_file_brings_is_not() -> None:
    with pytest.raises(UnsupportedModel, match="without class_labels, which no request can carry"):
        check_arguments(diffusers.DiTPipeline, [])
    check_arguments(diffusers.WanImageToVideoPipeline, ["image"])


def test_several_decoders_are_accepted_where_each_decodes_once_and_by_call_itself() -> None:
    decoders = {"vae": diffusers.AutoencoderKLLTX2Video, "audio_vae": diffusers.AutoencoderKLLTX2Audio}
    check_cut(diffusers.LTX2ConditionPipeline, decoders)
    with pytest.raises(UnsupportedModel, match=r"LTXConditionPipeline decodes with audio_vae and vae, .* of each"):
        check_cut(diffusers.LTXConditionPipeline, decoders)


@pytest.mark.parametrize(
    "pipeline, checkpoint, image, why",
    [
        ("SkyReelsV2ImageToVideoPipeline", "wan-image-to-video", "last_image", "transformer has pos_embed_seq_len"),
        ("Flux2KleinKVPipeline", "flux2-klein", "image", "carries what its network makes of it .* ask without it"),
    ],
)
def test_a_picture_that_the_model_can_not_do_with_is_refused_by_name(
    pipeline: str, checkpoint: str, image: str, why: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ensure(FAMILIES[checkpoint].checkpoint), tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": pipeline}
    (folder / "model_index.json").write_text(json.dumps(index))
    model = load(folder, Stage.ENCODE)
    assert image not in model.image_inputs
    picture = Image.new("RGB", (32, 32))
    written = "mp4" if model.output == "video" else "png"
    given = Parameters(prompt="a fox", seed=1, images={"image": picture, image: picture}, output_format=written)
    with pytest.raises(InvalidRequest, match=f"^{image}: {pipeline} .*{why}"):
        model.encode(given)


def test_a_pipeline_class_that_diffusers_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "MyOwnPipeline"}))
    with pytest.raises(UnsupportedModel, match="has no pipeline 'MyOwnPipeline'"):
        load(tmp_path, Stage.ENCODE)


def test_a_pipeline_with_nothing_that_decodes_is_refused(tmp_path: Path) -> None:
    whole = ensure(FAMILIES["sd15"].checkpoint)
    index = json.loads((whole / "model_index.json").read_text())
    index["vae"] = [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for name in ("unet", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / name).symlink_to(whole / name)
    with pytest.raises(UnsupportedModel, match=r"no component that can decode; it has .*unet"):
        load(tmp_path, Stage.ENCODE)


def test_a_stage_whose_weights_are_not_loaded_is_refused(encoder: ReplayModel) -> None:
    with pytest.raises(ModelError, match="loaded for encode alone"):
        encoder.denoise({}, Parameters(prompt="", seed=0), Direct())


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_frames", 9), ("strength", 0.5), ("extra", {"max_area": 64}), ("extra", {"output_type": "pt"})],
)
def test_a_field_that_the_pipeline_does_not_take_is_named(encoder: ReplayModel, field: str, value: object) -> None:
    name = next(iter(value)) if isinstance(value, dict) else field
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        encoder.encode(Parameters(prompt="a bird", seed=1, **{field: value}))  # type: ignore[arg-type]


def test_an_input_picture_of_another_name_is_named(encoder: ReplayModel) -> None:
    picture = Image.new("RGB", (32, 32))
    with pytest.raises(InvalidRequest, match=r"^last_image: "):
        encoder.encode(Parameters(prompt="a bird", seed=1, images={"last_image": picture}))


def test_a_picture_that_a_pipeline_needs_is_missed_by_name() -> None:
    model = load(ensure(FAMILIES["svd"].checkpoint), Stage.ENCODE)
    with pytest.raises(InvalidRequest, match=r"^image: "):
        model.encode(Parameters(prompt="", seed=1, output_format="mp4"))


def test_values_of_another_pipeline_are_refused() -> None:
    model = load(ensure(FAMILIES["sd15"].checkpoint), Stage.DENOISE)
    with pytest.raises(ModelError, match="made by SanaPipeline"):
        model.denoise(
            {"pipeline": "SanaPipeline", "diffusers": diffusers.__version__}, Parameters(prompt="", seed=0), Direct()
        )
