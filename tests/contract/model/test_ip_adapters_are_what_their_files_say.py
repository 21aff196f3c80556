"""IP-Adapters that were not made for the model are refused at load, pictures that can't be shown by field."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from diffusion_worker.model import (
    Control,
    ControlNetFiles,
    InvalidRequest,
    IPAdapter,
    IPAdapterFiles,
    Parameters,
    UnsupportedModel,
    load_model,
)
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.ip_adapters import IPAdapters
from diffusionpipeline.words import STAGES, Stage
from testbed.led_digits import control_net
from testbed.payloads import bytes_of
from testbed.shown_digits import ip_adapters
from testbed.zoo.ip_adapters import ENCODER, OTHER_ENCODER, write_encoder

SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)
PICTURE = Image.new("RGB", (40, 30), (200, 40, 40))
LOOK = IPAdapter(name="look", image=PICTURE)
WHOLE = frozenset(STAGES)
FILE = "wrong.safetensors"


@pytest.fixture(scope="session")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ip_adapters(tmp_path_factory.mktemp("shown"))


@pytest.fixture
def load(digits: Path) -> Callable[..., Any]:
    def load(*files: IPAdapterFiles, stages: frozenset[Stage] = WHOLE, path: Path = digits, **given: Any) -> Any:
        return load_model(path=path, stages=stages, dtype="float32", device="cpu", ip_adapters=files, **given)

    return load


def rewritten(there: Path, place: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(there / "look.safetensors")
    change(tensors)
    save_file(tensors, place / FILE)
    return place / FILE


def cut_off(there: Path, place: Path) -> Path:
    (place / FILE).write_bytes((there / "look.safetensors").read_bytes()[:-100])
    return place / FILE


def pickled(there: Path, place: Path) -> Path:
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(there / "look.safetensors").items():
        kind, _, rest = name.partition(".")
        nested[kind][rest] = tensor
    torch.save(nested, place / "wrong.bin")
    return place / "wrong.bin"


Change = Callable[[dict[str, torch.Tensor]], object]
LAYER = "ip_adapter.0.to_k_ip.weight"
CHANGED: dict[str, tuple[Change, str]] = {
    "without a tensor": (lambda one: one.pop(LAYER), r"made for another model .*: it looked for '0\.to_k_ip\.weight'"),
    "with layers more": (
        lambda one: one.update({f"ip_adapter.99.{part}": torch.ones(2, 2) for part in ("to_k_ip.weight", "more")}),
        r"was made for another model .*: of its \d+ tensors there is a place for \d+",
    ),
    "of another model": (lambda one: one.update({LAYER: one[LAYER].repeat(1, 2)}), "another model .* size mismatch"),
    "with what is of no kind": (lambda one: one.update(more=torch.ones(2)), "no place for 1 of its tensors"),
    "of no projection": (
        lambda one: one.update({"image_proj.proj.bias": one["image_proj.proj.bias"][:-1].clone()}),
        "its image_proj is none that diffusers .* knows for FluxTransformer2DModel",
    ),
    "with NaN": (lambda one: one[LAYER].fill_(torch.nan), "NaN or infinite values in to_k_ip.0.weight"),
    "with NaN where it projects": (lambda one: one["image_proj.norm.bias"].fill_(torch.nan), "NaN or infinite values"),
    "of faces": (
        lambda one: one.update({"ip_adapter.0.to_q_lora.down.weight": torch.ones(2, 2)}),
        "is of the FaceID kind, which is shown embeddings of faces and no pictures",
    ),
    "of a LoRA": (
        lambda one: (
            [one.pop(name) for name in list(one)] and one.update({"transformer.x.lora_A.weight": torch.ones(2)})
        ),
        "is no IP-Adapter: it has no ip_adapter tensors",
    ),
}


@pytest.mark.parametrize("change, said", CHANGED.values(), ids=CHANGED)
def test_a_file_that_is_not_for_this_model_is_refused_by_name(
    change: Change, said: str, load: Callable[..., Any], there: Path, tmp_path: Path
) -> None:
    wrong = IPAdapterFiles("wrong", rewritten(there, tmp_path, change), there / ENCODER)
    with pytest.raises(UnsupportedModel, match=said) as refused:
        load(IPAdapterFiles("look", there / "look.safetensors", there / ENCODER), wrong)
    assert str(refused.value).startswith(f"model.ipAdapters[wrong].file: {wrong.file}")


def test_a_file_that_is_cut_off_is_refused(load: Callable[..., Any], there: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"wrong\.safetensors"):
        load(IPAdapterFiles("wrong", cut_off(there, tmp_path), there / ENCODER))


def test_a_pickle_is_read_only_where_that_is_allowed(load: Callable[..., Any], there: Path, tmp_path: Path) -> None:
    pickle = IPAdapterFiles("look", pickled(there, tmp_path), there / ENCODER)
    with pytest.raises(UnsupportedModel, match=r"model\.ipAdapters\[look\]\.file: .* a pickle that may run any code"):
        load(pickle)
    request = dataclasses.replace(SEVEN, ip_adapters=[LOOK])
    safe = load(IPAdapterFiles("look", there / "look.safetensors", there / ENCODER))
    assert made(load(pickle, allow_pickle=True), request) == made(safe, request)


ENCODERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "of other sizes": (
        lambda place: write_encoder(place, projection_dim=24),
        r"is not the encoder that .* was trained with: name that",
    ),
    "of another kind": (
        lambda place: (write_encoder(place) / "config.json").write_text('{"model_type": "siglip"}'),
        "it is of type siglip, and these IP-Adapters are shown pictures by a clip_vision_model or clip",
    ),
    "without weights": (
        lambda place: (write_encoder(place) / "model.safetensors").unlink(),
        "it has no weights by a name",
    ),
}


@pytest.mark.parametrize("make, said", ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_that_it_was_not_trained_with_is_refused_by_name(
    make: Callable[[Path], object], said: str, load: Callable[..., Any], there: Path, tmp_path: Path
) -> None:
    make(tmp_path / "eyes")
    with pytest.raises(UnsupportedModel, match=said) as refused:
        load(IPAdapterFiles("look", there / "look.safetensors", tmp_path / "eyes"))
    assert str(refused.value).startswith(f"model.ipAdapters[look].imageEncoder: {tmp_path / 'eyes'}")


def test_an_encoder_may_be_a_part_of_a_whole_model(load: Callable[..., Any], there: Path, tmp_path: Path) -> None:
    """As CLIP's are published."""
    whole = CLIPModel(
        CLIPConfig(
            text_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
            vision_config=CLIPVisionModelWithProjection.from_pretrained(there / ENCODER).config.to_dict(),
            projection_dim=16,
        )
    )
    lone = CLIPVisionModelWithProjection.from_pretrained(there / ENCODER)
    whole.vision_model.load_state_dict(lone.vision_model.state_dict())
    whole.visual_projection.load_state_dict(lone.visual_projection.state_dict())
    whole.save_pretrained(tmp_path / "clip")
    request = dataclasses.replace(SEVEN, ip_adapters=[LOOK])
    file = there / "look.safetensors"
    by_whole, by_lone = (load(IPAdapterFiles("look", file, one)) for one in (tmp_path / "clip", there / ENCODER))
    apart = [np.asarray(Image.open(io.BytesIO(made(one, request)[0].data)), int) for one in (by_whole, by_lone)]
    # Kernels round by where in memory weights begin.
    assert abs(apart[0] - apart[1]).max() <= 1


def test_a_file_may_have_the_names_of_those_who_trained_it(
    load: Callable[..., Any], there: Path, tmp_path: Path
) -> None:
    """Of Flux's as they are published."""
    names = {"to_k_ip": "ip_adapter_double_stream_k_proj", "to_v_ip": "ip_adapter_double_stream_v_proj"}

    def theirs(name: str) -> str:
        kind, number, rest = name.split(".", 2)
        if kind == "image_proj":
            return f"ip_adapter_proj_model.{number}.{rest}"
        part, leaf = rest.split(".")
        return f"double_blocks.{number}.processor.{names[part]}.{leaf}"

    save_file({theirs(name): one for name, one in load_file(there / "look.safetensors").items()}, tmp_path / FILE)
    request = dataclasses.replace(SEVEN, ip_adapters=[LOOK])
    by_theirs, by_ours = (
        load(IPAdapterFiles("look", file, there / ENCODER)) for file in (tmp_path / FILE, there / "look.safetensors")
    )
    assert made(by_theirs, request) == made(by_ours, request)


def test_a_model_that_diffusers_has_none_for_is_refused(load: Callable[..., Any], there: Path) -> None:
    from testbed.zoo import FAMILIES, ensure

    look = IPAdapterFiles("look", there / "look.safetensors", there / ENCODER)
    with pytest.raises(UnsupportedModel, match=r"model\.ipAdapters: QwenImagePipeline can't have any"):
        load(look, path=ensure(FAMILIES["qwen-image"].checkpoint))


def test_a_network_that_projects_texts_itself_is_refused() -> None:
    """As Kolors' does: what IP-Adapters project would take its place."""
    network = UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        encoder_hid_dim=8,
        encoder_hid_dim_type="text_proj",
    )
    how = {"dtype": torch.float32, "device": "cpu", "variant": "", "allow_pickle": False}
    with pytest.raises(UnsupportedModel, match=r"model\.ipAdapters: UNet2DConditionModel has a projection of its own"):
        IPAdapters([], StableDiffusionPipeline, network, computes=True, **how)


@pytest.fixture(scope="session")
def model(digits: Path, there: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    files = [
        IPAdapterFiles("look", there / "look.safetensors", there / ENCODER, 0.5),
        IPAdapterFiles("style", there / "style.safetensors", there / OTHER_ENCODER),
    ]
    edges = ControlNetFiles("edges", control_net(tmp_path_factory.mktemp("nets") / "edges"))
    return load_model(path=digits, stages=WHOLE, dtype="float32", device="cpu", ip_adapters=files, control_nets=[edges])


def shown(**changes: Any) -> IPAdapter:
    return dataclasses.replace(LOOK, **changes)


CONTROL = Control(name="edges", image=Image.new("RGB", (64, 64)))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name that there is not": ({"ip_adapters": [LOOK, shown(name="x")]}, r"^ip_adapters\[1\].name: .* look, style"),
    "no picture": ({"ip_adapters": [shown(image=None)]}, r"^ip_adapters\[0\].image: needed"),
    "two with encoders of their own": (
        {"ip_adapters": [LOOK, shown(name="style")]},
        "^ip_adapters: look and style have different image encoders",
    ),
    "what they say": (
        {"ip_adapters": [LOOK], "extra": {"ip_adapter_image": 1}},
        "^ip_adapter_image: is set by ip_adapters",
    ),
    "where diffusers has none": (
        {"ip_adapters": [LOOK], "controls": [CONTROL], "images": {"image": Image.new("RGB", (64, 64))}},
        "^ip_adapters: FluxControlNetImg2ImgPipeline, which is for such a request, takes none",
    ),
    "what the pipeline does not take": ({"ip_adapters": [LOOK], "num_frames": 4}, "^num_frames: Flux.* not take it"),
}


@pytest.mark.parametrize("fields, said", WRONG.values(), ids=WRONG)
def test_a_request_that_can_not_be_shown_so_is_refused_by_field(model: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        model.encode(dataclasses.replace(SEVEN, **fields))


def test_where_there_is_one_at_a_time_two_are_refused() -> None:
    from testbed.zoo import FAMILIES, ensure
    from testbed.zoo.ip_adapters import ip_adapter_files

    checkpoint = FAMILIES["sd3"].checkpoint
    model = load_model(
        path=ensure(checkpoint),
        stages=frozenset({Stage.ENCODE}),
        dtype="float32",
        device="cpu",
        ip_adapters=ip_adapter_files(checkpoint),
    )
    with pytest.raises(InvalidRequest, match=r"^ip_adapters: this model is shown pictures by one at a time"):
        model.encode(dataclasses.replace(SEVEN, ip_adapters=[LOOK, shown(name="style")]))


def test_a_model_without_any_refuses_them(load: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest, match="this pipeline has no IP-Adapters"):
        load().encode(dataclasses.replace(SEVEN, ip_adapters=[LOOK]))


def test_a_scale_that_is_not_given_is_the_adapters_own(model: Any) -> None:
    as_listed = made(model, dataclasses.replace(SEVEN, ip_adapters=[LOOK]))
    assert as_listed == made(model, dataclasses.replace(SEVEN, ip_adapters=[shown(scale=0.5)]))
    assert as_listed != made(model, dataclasses.replace(SEVEN, ip_adapters=[shown(scale=1.0)]))
    assert as_listed != made(model, SEVEN)


def test_two_with_one_encoder_share_its_weights(load: Callable[..., Any], there: Path) -> None:
    files = [IPAdapterFiles(name, there / f"{name}.safetensors", there / ENCODER) for name in ("look", "style")]
    assert len(load(*files)._shown._ip_adapters.encoders) == 1


def test_decoders_need_no_files(load: Callable[..., Any], there: Path, model: Any) -> None:
    request = dataclasses.replace(SEVEN, ip_adapters=[LOOK])
    decoder = load(IPAdapterFiles("look", None, None), stages=frozenset({Stage.DECODE}))
    assert decoder.decode(model.denoise(model.encode(request), request, Direct())) == made(model, request)


def test_what_is_shown_nothing_crosses_stages_as_without_any(model: Any, load: Callable[..., Any]) -> None:
    """Peers of one generation share it, and an encoder's conditioning serves many jobs."""
    plain = load()
    encoded = plain.encode(SEVEN)
    assert bytes_of(model.encode(SEVEN)) == bytes_of(encoded)
    assert bytes_of(model.denoise(encoded, SEVEN, Direct())) == bytes_of(plain.denoise(encoded, SEVEN, Direct()))
    assert model.workflows[: len(plain.workflows)] == plain.workflows
    beside = [one.images for one in model.workflows[len(plain.workflows) :]]
    image, mask = frozenset({"image"}), frozenset({"image", "mask_image"})
    both = {"controls", "ip_adapters"}
    assert {one - both for one in beside if "ip_adapters" in one and "controls" not in one} == {
        frozenset(),
        image,
        mask,
    }
    assert {one - both for one in beside if both <= one} == {frozenset()}
    assert all(one.encoding_reads is None for one in model.workflows[len(plain.workflows) :])


def made(model: Any, request: Parameters) -> Any:
    return model.decode(model.denoise(model.encode(request), request, Direct()))
