"""ControlNets that can't lead the model are refused at load, controls that can't be followed by field."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusion_worker.model import Control, ControlNetFiles, InvalidRequest, Parameters, UnsupportedModel, load_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES, Stage
from testbed.led_digits import control_net
from testbed.payloads import bytes_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)
PICTURE = Image.new("RGB", (64, 64), (200, 40, 40))
EDGES = Control(name="edges", image=PICTURE)
WHOLE = frozenset(STAGES)


@pytest.fixture(scope="session")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return control_net(tmp_path_factory.mktemp("nets") / "edges")


@pytest.fixture
def load(digits: Path) -> Callable[..., Any]:
    def load(*files: ControlNetFiles, stages: frozenset[Stage] = WHOLE, path: Path = digits) -> Any:
        return load_model(path=path, stages=stages, dtype="float32", device="cpu", control_nets=files)

    return load


def changed(place: Path, **changes: Any) -> Path:
    """The folder with other values in its config."""
    file = place / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return place


def rewritten(place: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(place / WEIGHTS)
    change(tensors)
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
    return place


def without(place: Path, name: str) -> Path:
    (place / name).unlink()
    return place


def pickled(place: Path) -> Path:
    torch.save(load_file(place / WEIGHTS), place / "diffusion_pytorch_model.bin")
    return without(place, WEIGHTS)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "of another family": (
        lambda place: changed(control_net(place), _class_name="SD3ControlNetModel"),
        "of class SD3ControlNetModel, and FluxPipeline's transformer is led by FluxControlNetModel alone",
    ),
    "of no class": (lambda place: changed(control_net(place), _class_name=None), "of class None"),
    "of another model": (
        lambda place: control_net(place, joint_attention_dim=80),
        "its joint_attention_dim is 80, and that of FluxPipeline's transformer .* name one that was made for this",
    ),
    "whose config is another's": (
        lambda place: changed(control_net(place), num_layers=2),
        "FluxControlNetModel lacks .*transformer_blocks.1",
    ),
    "without a config": (lambda place: without(control_net(place), "config.json"), "has no config.json"),
    "without weights": (lambda place: without(control_net(place), WEIGHTS), "has no weights by a name"),
    "in a pickle": (lambda place: pickled(control_net(place)), "a pickle that may run any code"),
    "without a tensor": (
        lambda place: rewritten(control_net(place), lambda tensors: tensors.pop("controlnet_blocks.0.weight")),
        "lacks controlnet_blocks.0.weight, which would be random values",
    ),
    "with NaN": (
        lambda place: rewritten(
            control_net(place), lambda tensors: tensors["controlnet_blocks.0.bias"].fill_(torch.nan)
        ),
        "NaN or infinite values in controlnet_blocks.0.bias",
    ),
}


@pytest.mark.parametrize("make, said", REFUSED.values(), ids=REFUSED)
def test_one_that_can_not_lead_this_model_is_refused_by_name(
    make: Callable[[Path], Path], said: str, load: Callable[..., Any], edges: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=said) as refused:
        load(ControlNetFiles("edges", edges), ControlNetFiles("wrong", make(tmp_path / "wrong")))
    assert str(refused.value).startswith("model.controlNets[wrong]: ")


def test_a_model_that_diffusers_can_not_lead_is_refused_with_those_that_it_can(
    load: Callable[..., Any], edges: Path, digits: Path, tmp_path: Path
) -> None:
    for file in digits.iterdir():
        (tmp_path / file.name).symlink_to(file)
    index = tmp_path / "model_index.json"
    index.unlink()
    kontext = {**json.loads((digits / "model_index.json").read_text()), "_class_name": "FluxKontextPipeline"}
    index.write_text(json.dumps(kontext))
    with pytest.raises(
        UnsupportedModel, match=r"model\.controlNets: FluxKontextPipeline can't have any; these can: Flux"
    ):
        load(ControlNetFiles("edges", edges), path=tmp_path)


@pytest.fixture(scope="session")
def model(digits: Path, edges: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("more")
    files = [
        ControlNetFiles("edges", edges),
        ControlNetFiles("kinds", control_net(folder / "kinds", num_mode=3)),
        ControlNetFiles("hint", control_net(folder / "hint", conditioning_embedding_channels=4)),
    ]
    return load_model(path=digits, stages=WHOLE, dtype="float32", device="cpu", control_nets=files)


def control(**changes: Any) -> Control:
    return dataclasses.replace(EDGES, **changes)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name that there is not": ({"controls": [EDGES, control(name="depth")]}, r"^controls\[1\].name: .* edges, hint"),
    "no picture": ({"controls": [control(image=None)]}, r"^controls\[0\].image: needed"),
    "a start at its end": ({"controls": [control(start=0.5, end=0.5)]}, r"^controls\[0\].start: must be below"),
    "an end past the last step": ({"controls": [control(end=1.5)]}, r"^controls\[0\].start: must be below"),
    "a kind of one for one kind": ({"controls": [control(mode=0)]}, r"^controls\[0\].mode: edges is for one kind"),
    "no kind of one for several": ({"controls": [control(name="kinds")]}, r"^controls\[0\].mode: .* 0 to 2"),
    "a kind too far": ({"controls": [control(name="kinds", mode=3)]}, r"^controls\[0\].mode: .* 0 to 2"),
    "two that read pictures differently": (
        {"controls": [EDGES, control(name="hint")]},
        "^controls: edges and hint can't lead together: they differ in conditioning_embedding_channels",
    ),
    "a mask without its picture": (
        {"controls": [EDGES], "images": {"mask_image": PICTURE}},
        "^mask_image: beside controls this model takes image or image and mask_image",
    ),
    "a picture of another kind": (
        {"controls": [EDGES], "images": {"control_image": PICTURE}},
        "^control_image: beside controls",
    ),
    "what controls say": (
        {"controls": [EDGES], "extra": {"controlnet_conditioning_scale": 0.5}},
        "^controlnet_conditioning_scale: is set by controls",
    ),
    "what the pipeline does not take": ({"controls": [EDGES], "num_frames": 4}, "^num_frames: Flux.* not take it"),
}


@pytest.mark.parametrize("fields, said", WRONG.values(), ids=WRONG)
def test_a_request_that_can_not_be_led_so_is_refused_by_field(model: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        model.encode(dataclasses.replace(SEVEN, **fields))


def test_a_model_without_any_refuses_controls(load: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest, match="this pipeline has no ControlNets"):
        load().encode(dataclasses.replace(SEVEN, controls=[EDGES]))


def test_each_weight_is_loaded_once_and_what_leads_by_the_denoiser_alone(
    load: Callable[..., Any], edges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_worker.model import controls, modular, replay

    loaded: Counter[str] = Counter()
    original = modular.load_component

    def counted(folder: Any, name: str, **given: Any) -> Any:
        loaded[name] += 1
        return original(folder, name, **given)

    for module in (controls, modular, replay):
        monkeypatch.setattr(module, "load_component", counted)
    model = load(ControlNetFiles("edges", edges))
    assert {"transformer", "vae", "text_encoder", "edges"} <= loaded.keys()
    assert set(loaded.values()) == {1}
    assert "edges" in model.loaded
    for stage in (Stage.ENCODE, Stage.DECODE):
        loaded.clear()
        assert "edges" not in load(ControlNetFiles("edges", edges), stages=frozenset({stage})).loaded
        assert "edges" not in loaded


def test_what_is_not_led_crosses_stages_as_without_any(model: Any, load: Callable[..., Any]) -> None:
    """Peers of one generation share it, and an encoder's conditioning serves many jobs."""
    plain = load()
    encoded = plain.encode(SEVEN)
    assert bytes_of(model.encode(SEVEN)) == bytes_of(encoded)
    assert bytes_of(model.denoise(encoded, SEVEN, Direct())) == bytes_of(plain.denoise(encoded, SEVEN, Direct()))
    assert model.workflows[: len(plain.workflows)] == plain.workflows
    led = [one for one in model.workflows if "controls" in one.images]
    assert {one.images - {"controls"} for one in led} == {
        frozenset(),
        frozenset({"image"}),
        frozenset({"image", "mask_image"}),
    }
    assert all(one.encoding_reads is None and one.resumable for one in led)
