"""`dpipe convert`: a folder made of one file of weights makes what the folder makes that the file came from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusion_worker.model import Parameters, convert
from diffusion_worker.model.singlefile import V_PREDICTION
from testbed import single_files
from testbed.single_files import Tensors
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import FAMILIES, SD15, WAN21, WAN22

KNOWN = "model.diffusion_model.output_blocks.11.0.skip_connection.weight"
"""By which diffusers tells a Stable Diffusion 1."""


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return single_files.ldm(ensure(SD15), tmp_path_factory.mktemp("single") / "sd15.safetensors")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr("signal.signal", lambda *given: None)

    def run(*arguments: object) -> tuple[int, str]:
        status = convert.main([str(one) for one in arguments])
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def copy(sd15: Path, tmp_path: Path) -> Path:
    """Of the file, to be changed."""
    return Path(shutil.copy(sd15, tmp_path / "my.safetensors"))


@pytest.mark.parametrize(
    "family, layout, held",
    [
        pytest.param("sd15", single_files.ldm, "text_encoder, unet, vae", id="all networks of SD 1.5"),
        pytest.param("wan21", single_files.wan, "transformer", id="the transformer of Wan"),
        pytest.param("z-image", single_files.z_image, "transformer", id="the transformer of Z-Image, attention fused"),
    ],
)
def test_it_makes_what_the_folder_makes_that_the_file_came_from(
    family: str,
    layout: Callable[[Path, Path], Path],
    held: str,
    command: Any,
    roles_of: Any,
    tmp_path: Path,
) -> None:
    used = FAMILIES[family]
    origin = ensure(used.checkpoint)
    request = Parameters(**used.request, output_format="png" if used.output == "image" else "mp4")
    file = layout(origin, tmp_path / "single.safetensors")

    status, said = command(file, tmp_path / "made", "--config", origin)

    assert status == 0, said
    assert f"  from the file: {held}\n" in said
    assert said.endswith(f"next: dpipe check {tmp_path / 'made'}\n")
    (theirs,) = roles_of(origin, "float32", split=False).draw(request)
    for split in (False, True):
        (ours,) = roles_of(tmp_path / "made", "float32", split=split).draw(request)
        assert ours.data == theirs.data


def test_weights_stay_in_their_type_unless_another_is_asked_for(copy: Path, command: Any, tmp_path: Path) -> None:
    def halve(tensors: Tensors) -> None:
        tensors |= {key: value.half() for key, value in tensors.items() if not key.startswith("first_stage_model.")}

    file, config = single_files.edited(copy, halve), ensure(SD15)
    assert command(file, tmp_path / "same", "--config", config)[0] == 0
    assert command(file, tmp_path / "other", "--config", config, "--dtype", "bfloat16", "--variant", "bf16")[0] == 0
    for component, name in (
        ("unet", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        same = load_file(tmp_path / "same" / component / f"{name}.safetensors")
        kept = torch.float32 if component == "vae" else torch.float16
        assert {one.dtype for one in same.values() if one.is_floating_point()} == {kept}
        other = load_file(tmp_path / "other" / component / f"{name}.bf16.safetensors")
        assert {one.dtype for one in other.values() if one.is_floating_point()} == {torch.bfloat16}


def test_fp8_without_scales_becomes_what_is_asked_for(copy: Path, command: Any, tmp_path: Path) -> None:
    file = single_files.edited(copy, narrow)
    assert command(file, tmp_path / "made", "--config", ensure(SD15), "--dtype", "bfloat16")[0] == 0
    made = load_file(tmp_path / "made" / "unet" / "diffusion_pytorch_model.safetensors")
    narrowed = load_file(file)["model.diffusion_model.time_embed.0.weight"]
    assert torch.equal(made["time_embedding.linear_1.weight"], narrowed.to(torch.bfloat16))


def test_a_pickle_is_read_where_that_is_allowed(sd15: Path, command: Any, tmp_path: Path) -> None:
    file = tmp_path / "my.ckpt"
    torch.save({"state_dict": load_file(sd15)}, file)
    status, said = command(file, tmp_path / "made", "--config", ensure(SD15))
    assert status == 2
    assert "is no .safetensors but a pickle, which may run any code" in said
    assert command(file, tmp_path / "made", "--config", ensure(SD15), "--allow-pickle")[0] == 0
    assert command(file, tmp_path / "made2", "--config", ensure(SD15), "--allow-pickle")[0] == 0


def test_what_no_component_has_is_told(copy: Path, command: Any, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors |= {"model_ema.decay": torch.ones(1), "model_ema.one": torch.ones(2), "betas": torch.ones(3)}

    _, said = command(single_files.edited(copy, add), tmp_path / "made", "--config", ensure(SD15))
    assert "  left out of the file: betas (1), model_ema (2)\n" in said


def test_the_safety_checker_of_the_config_is_left_out(copy: Path, command: Any, tmp_path: Path) -> None:
    config = Path(shutil.copytree(ensure(SD15), tmp_path / "config"))
    index = json.loads((config / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (config / "model_index.json").write_text(json.dumps(index))

    status, said = command(copy, tmp_path / "made", "--config", config)

    assert status == 0, said
    made = json.loads((tmp_path / "made" / "model_index.json").read_text())
    assert made["safety_checker"] == [None, None]
    assert made["requires_safety_checker"] is False


def test_of_the_config_only_those_weights_are_copied_that_are_loaded(command: Any, tmp_path: Path) -> None:
    config = Path(shutil.copytree(ensure(WAN21), tmp_path / "config"))
    name = "diffusion_pytorch_model"
    shutil.copy(config / "vae" / f"{name}.safetensors", config / "vae" / f"{name}.fp16.safetensors")
    (config / "vae" / f"{name}.bin").write_bytes(b"")
    (config / "text_encoder" / "model.onnx").write_bytes(b"")
    file = single_files.wan(config, tmp_path / "my.safetensors")
    assert command(file, tmp_path / "made", "--config", config)[0] == 0
    made = {one.relative_to(tmp_path / "made").as_posix() for one in (tmp_path / "made").glob("*/*.[sbo]*")}
    assert made == {
        f"vae/{name}.safetensors",
        f"transformer/{name}.safetensors",
        "text_encoder/model.safetensors",
    }


def test_another_class_can_be_named(copy: Path, command: Any, tmp_path: Path) -> None:
    chosen = "--pipeline", "StableDiffusionImg2ImgPipeline"
    assert command(copy, tmp_path / "made", "--config", ensure(SD15), *chosen)[0] == 0
    index = json.loads((tmp_path / "made" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionImg2ImgPipeline"
    status, said = command(copy, tmp_path / "other", "--config", ensure(SD15), "--pipeline", "NoPipeline")
    assert (status, "has no NoPipeline" in said) == (2, True)


def scaled(tensors: Tensors) -> None:
    key = "model.diffusion_model.time_embed.0.weight"
    tensors |= {key: tensors[key].to(torch.float8_e4m3fn), f"{key.removesuffix('weight')}scale_weight": torch.ones(1)}


def without(part: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if part in key]:
            del tensors[key]

    return change


def only(prefix: str, new: str = "") -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in list(tensors):
            tensor = tensors.pop(key)
            if key.startswith(prefix):
                tensors[new + key.removeprefix(prefix)] = tensor

    return change


def add(*keys: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({key: torch.ones(4, 4) for key in keys})


def halved(tensors: Tensors) -> None:
    tensors |= {key: value / 2 for key, value in tensors.items()}


def narrow(tensors: Tensors) -> None:
    key = "model.diffusion_model.time_embed.0.weight"
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)


def nan(tensors: Tensors) -> None:
    tensors["first_stage_model.decoder.conv_in.bias"][0] = torch.nan


def reshaped(tensors: Tensors) -> None:
    tensors["model.diffusion_model.out.2.weight"] = torch.ones(9, 8, 3, 3)


CLIP = "cond_stage_model.transformer."


@pytest.mark.parametrize(
    "change, said",
    [
        (
            without("time_embed.2.bias"),
            r"unet of my\.safetensors: UNet2DConditionModel lacks time_embedding\.linear_2\.b",
        ),
        (without("final_layer_norm.bias"), r"text_encoder of .*CLIPTextModel lacks .*final_layer_norm\.bias"),
        (without("decoder.norm_out"), r"vae of .*AutoencoderKL lacks decoder\.conv_norm_out\.bias"),
        (without("first_stage_model."), r"vae: neither the file nor .* has weights for it.*--config"),
        (without(KNOWN[:22]), r"unet: neither the file nor .* has weights"),
        (add("model.diffusion_model.output_blocks.1.1.transformer_blocks.7.norm1.weight"), r"no place for .*blocks\.7"),
        (reshaped, r"unet of .*other shapes than by the config of UNet2DConditionModel: conv_out\.weight \(\[9"),
        (nan, r"made.vae: NaN or infinite values in decoder\.conv_in\.bias"),
        (narrow, r"its weights are float8_e4m3fn, which no role computes in: .*--dtype"),
        (scaled, r"quantised, with scales \(.*time_embed\.0\.scale_weight\).*bf16 or fp16"),
        (add(V_PREDICTION), r"says that it predicts v .*prediction_type v_prediction"),
        (add("x.lora_A.weight"), r"is a LoRA adapter and no model: .*model\.adapters"),
        (add("control_model.zero.weight"), r"is a ControlNet and no model"),
        (only("first_stage_model."), r"is a VAE alone: .*--config"),
        (only("first_stage_model.", "vae."), r"is a VAE alone"),
        (only(CLIP), r"is a text encoder alone: .*--config"),
        (only("no such", ""), r"holds no tensors"),
    ],
)
def test_what_can_not_be_made_whole_is_refused_and_leaves_nothing(
    change: Callable[[Tensors], None], said: str, copy: Path, command: Any, tmp_path: Path
) -> None:
    config = Path(shutil.copytree(ensure(SD15), tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors")))
    single_files.edited(copy, change)
    there = sorted(tmp_path.iterdir())

    status, text = command(copy, tmp_path / "made", "--config", config)

    assert status == 2
    assert re.search(said, text), text
    assert text.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == there


def test_a_file_of_no_layout_that_is_known_is_refused(command: Any, tmp_path: Path) -> None:
    file = single_files.save({"one.weight": torch.ones(2), "two.weight": torch.ones(2)}, tmp_path / "my.safetensors")
    status, said = command(file, tmp_path / "made")
    assert status == 2
    assert "can't tell of which family it is (one.weight, two.weight)" in said
    assert "--config" in said
    status, said = command(file, tmp_path / "made", "--config", ensure(WAN21))
    assert (status, "WanTransformer3DModel lacks " in said) == (2, True)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("my.gguf", b"GGUF", "is GGUF, quantised for other programs: take the safetensors"),
        ("my.safetensors", b"", "is empty: get it again"),
        ("my.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("my.safetensors", b"<!DOCTYPE html><html>", "is no safetensors file"),
        ("my.ckpt", b"junk", "is no .safetensors but a pickle"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused(
    name: str, content: bytes, said: str, command: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    status, text = command(tmp_path / name, tmp_path / "made", "--config", ensure(SD15))
    assert (status, said in text) == (2, True), text


def test_what_is_no_file_or_no_config_is_refused(sd15: Path, command: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert "is no file" in command(tmp_path / "nothing.safetensors", made, "--config", ensure(SD15))[1]
    assert "a folder needs no conversion" in command(ensure(SD15), made, "--config", ensure(SD15))[1]
    assert "--config ./none: is neither the folder" in command(sd15, made, "--config", "./none")[1]
    assert "not a diffusers pipeline folder" in command(sd15, made, "--config", tmp_path)[1]


def test_of_two_denoisers_it_must_be_said_which_one_a_file_holds(command: Any, roles_of: Any, tmp_path: Path) -> None:
    origin = ensure(WAN22)
    high, low = (
        single_files.wan(origin, tmp_path / f"{one}.safetensors", one) for one in ("transformer", "transformer_2")
    )
    status, said = command(high, tmp_path / "made", "--config", origin)
    assert status == 2
    assert "denoises with transformer and transformer_2, and a file does not say which of them it holds" in said
    assert "--component" in said
    status, said = command(high, tmp_path / "made", "--config", origin, "--component", "vae")
    assert (status, "--component vae: WanPipeline denoises with transformer and transformer_2" in said) == (2, True)

    other = Path(shutil.copytree(ensure(WAN22), tmp_path / "other"))
    for component in ("transformer", "transformer_2"):
        single_files.edited(next((other / component).glob("*.safetensors")), halved)
    assert command(high, tmp_path / "half", "--config", other, "--component", "transformer")[0] == 0
    assert command(low, tmp_path / "made", "--config", tmp_path / "half", "--component", "transformer_2")[0] == 0
    request = Parameters(**FAMILIES["wan22"].request, output_format="mp4")
    theirs, halfway, ours = (
        roles_of(folder, "float32", split=False).draw(request)[0].data
        for folder in (origin, tmp_path / "half", tmp_path / "made")
    )
    assert ours == theirs != halfway


def test_nothing_is_written_over(sd15: Path, command: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    assert command(sd15, tmp_path / "made", "--config", ensure(SD15))[0] == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "made").rglob("*")}
    status, said = command(sd15, tmp_path / "made", "--config", ensure(SD15))
    assert status == 2
    assert "is there already, and nothing is written over" in said
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "made").rglob("*")} == before


def test_an_interrupted_conversion_leaves_nothing(
    sd15: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        assert list(tmp_path.rglob("*.safetensors"))
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "check_folder", lambda folder: interrupt() if folder.path.parent == tmp_path else None)
    status, said = command(sd15, tmp_path / "made", "--config", ensure(SD15))
    assert (status, "interrupted" in said) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_config_and_a_hub_it_says_which_one_is_missed(
    copy: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    status, said = command(single_files.edited(copy, add(KNOWN)), tmp_path / "made")
    assert status == 2
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5 on the hub, which can't be had: nothing may be down" in said
    assert "--config" in said


def test_the_programs_of_both_packages_are_one(sd15: Path, tmp_path: Path) -> None:
    dpipe = (sys.executable, "-c", "from dpipe.app import main; main()", "convert")
    given = (str(sd15), str(tmp_path / "made"), "--config", str(ensure(SD15)), "--dtype", "float16")
    done = subprocess.run((*dpipe, *given), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"next: dpipe check {tmp_path / 'made'}" in done.stdout
    assert {one.dtype for one in load_file(next((tmp_path / "made" / "unet").glob("*.safetensors"))).values()} == {
        torch.float16
    }
