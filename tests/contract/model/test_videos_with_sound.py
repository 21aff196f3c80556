"""Pipelines that make a video and its sound, with a network to decode each: both come from the roles as from one."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from diffusion_worker.model import Parameters
from diffusion_worker.model.driving import Direct
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import LTX2

from .conftest import Roles, through_a_slot

REQUEST: Mapping[str, Any] = {
    "prompt": "waves",
    "seed": 5,
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "output_format": "mp4",
    "extra": {"max_sequence_length": 16},
}


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LTX 2 by a class without blocks."""
    folder = Path(shutil.copytree(ensure(LTX2), tmp_path_factory.mktemp("sound") / "conditioned"))
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "LTX2ConditionPipeline"}))
    return folder


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Echo is made of LTX 2's networks, with blocks alone and no scheduler."""
    folder = Path(shutil.copytree(ensure(LTX2), tmp_path_factory.mktemp("sound") / "echo"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").unlink()
    components = {
        name: [*value, {"pretrained_model_name_or_path": str(folder), "subfolder": name, "type_hint": value}]
        for name, value in index.items()
        if name[0] != "_" and value[0] is not None and name != "scheduler"
    }
    names = {"_class_name": "EchoModularPipeline", "_blocks_class_name": "EchoBlocks"}
    (folder / "modular_model_index.json").write_text(json.dumps(names | components))
    return folder


def sound(file: bytes) -> np.ndarray:
    with av.open(io.BytesIO(file)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def drawn(roles: Roles, request: Parameters) -> bytes:
    (file,) = roles.draw(request)
    return file.data


@pytest.mark.parametrize("way", ["replay", "modular"])
def test_roles_make_the_file_that_one_makes_and_it_sounds(
    way: str, conditioned: Path, echo: Path, roles_of: Any
) -> None:
    folder = {"replay": conditioned, "modular": echo}[way]
    request = Parameters(**REQUEST | ({"num_inference_steps": 2} if way == "replay" else {}))
    whole, split = (roles_of(folder, "float32", split=split) for split in (False, True))
    assert split.denoiser.way == way
    file = drawn(whole, request)
    assert drawn(split, request) == file
    assert np.abs(sound(file)).max() > 0


def test_echo_takes_a_first_frame(echo: Path, roles_of: Any) -> None:
    pictures = {"image": Image.radial_gradient("L").resize((64, 64)).convert("RGB")}
    request = Parameters(**REQUEST, images=pictures)
    whole, split = (roles_of(echo, "float32", split=split) for split in (False, True))
    assert drawn(whole, request) == drawn(split, request) != drawn(whole, Parameters(**REQUEST))


def test_another_sound_is_made_of_another_seed_and_the_same_of_the_same(conditioned: Path, roles_of: Any) -> None:
    split = roles_of(conditioned, "float32", split=True)
    one, again, other = (
        sound(drawn(split, Parameters(**REQUEST | {"num_inference_steps": 1, "seed": seed}))) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_both_schedulers_go_on_where_a_denoising_was_parked(conditioned: Path, roles_of: Any) -> None:
    roles = roles_of(conditioned, "float32", split=True)
    request = Parameters(**REQUEST | {"num_inference_steps": 3})
    conditioning = roles.conditioning(request)
    straight = through_a_slot(roles.denoiser.denoise(conditioning, request, Direct()))
    for step in (1, 2):
        parked = through_a_slot(roles.denoiser.denoise(conditioning, request, Direct(park_at=step)))
        went_on = through_a_slot(roles.denoiser.denoise(parked, request, Direct()))
        (one,), (other,) = roles.decoder.decode(went_on), roles.decoder.decode(straight)
        assert one.data == other.data
