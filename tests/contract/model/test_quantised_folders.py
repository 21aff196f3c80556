"""Folders with quantised weights: loaded by the method that their config names, or refused by method and package."""

from __future__ import annotations

import enum
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from safetensors.torch import load_file, save_file

from diffusion_worker.model import Parameters, UnsupportedModel
from diffusion_worker.model.folder import load_component, open_folder
from diffusion_worker.model.intact import check_weights
from diffusion_worker.model.quantised import parts
from diffusion_worker.model.shrink import shrink

from .quirks.changes import METADATA, edit, weights

SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=2)


class Method(enum.StrEnum):
    TESTS = "bytes_of_tests"


TEST_METHOD = Method.TESTS


class Bytes(torch.nn.Module):
    """A linear layer whose weights are int8, with a scale for each row."""

    def __init__(self, like: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(like.weight.shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(like.weight.shape[0], 1))
        self.bias = like.bias

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(given.dtype) * self.scale.to(given.dtype)
        return torch.nn.functional.linear(given, weight, self.bias)


class Config(QuantizationConfigMixin):
    def __init__(self, **given: Any) -> None:
        self.quant_method = TEST_METHOD

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": TEST_METHOD.value}


class Quantizer(DiffusersQuantizer):
    """What packages bring to diffusers, in small."""

    is_serializable = True
    is_trainable = False

    def _process_model_before_weight_loading(self, model: torch.nn.Module, **given: Any) -> None:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, torch.nn.Linear):
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, Bytes(layer))

    def _process_model_after_weight_loading(self, model: torch.nn.Module, **given: Any) -> None:
        pass


@pytest.fixture
def quantised(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bundled model with its transformer in int8, and a method by which diffusers loads it."""
    monkeypatch.setitem(auto.AUTO_QUANTIZER_MAPPING, TEST_METHOD.value, Quantizer)
    monkeypatch.setitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, TEST_METHOD.value, Config)
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    plain = load_component(open_folder(digits), "transformer", dtype=torch.float32, device="cpu", allow_pickle=False)
    linear = {name for name, layer in plain.named_modules() if isinstance(layer, torch.nn.Linear)}
    tensors = load_file(weights(folder, "transformer"))
    for name in linear:
        weight = tensors[f"{name}.weight"].float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        tensors |= {f"{name}.weight": (weight / scale).round().to(torch.int8), f"{name}.scale": scale}
    save_file(tensors, weights(folder, "transformer"), METADATA)
    edit(folder / "transformer" / "config.json", quantization_config={"quant_method": TEST_METHOD.value})
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_served_quantised_in_roles_as_whole(dtype: str, quantised: Path, digits: Path, roles_of: Any) -> None:
    whole, split = (roles_of(quantised, dtype, split=split) for split in (False, True))
    (one,), (other,) = whole.draw(SEVEN), split.draw(SEVEN)
    assert one.data == other.data
    (plain,) = roles_of(digits, dtype, split=False).draw(SEVEN)
    assert one.data != plain.data


def test_without_their_method_scales_are_no_weights(quantised: Path) -> None:
    edit(quantised / "transformer" / "config.json", quantization_config=None)
    with pytest.raises(UnsupportedModel, match=r"transformer: .*has no place for .*scale"):
        load(quantised, "transformer")


def test_a_scale_that_is_missing_is_named(quantised: Path) -> None:
    file = weights(quantised, "transformer")
    save_file({key: one for key, one in load_file(file).items() if key != "proj_out.scale"}, file, METADATA)
    with pytest.raises(UnsupportedModel, match=r"transformer: .*lacks proj_out\.scale"):
        load(quantised, "transformer")


def load(folder: Path, component: str) -> Any:
    return load_component(open_folder(folder), component, dtype=torch.float32, device="cpu", allow_pickle=False)


@pytest.mark.parametrize(
    "component, config, said",
    [
        ("transformer", {"quant_method": "torchao", "quant_type": "int8wo"}, "torchao.*`pip install torchao`"),
        ("transformer", {"quant_method": "quanto", "weights_dtype": "int8"}, "quanto.*`pip install optimum-quanto`"),
        ("transformer", {"quant_method": "modelopt", "quant_type": "FP8"}, "modelopt.*`pip install nvidia-modelopt`"),
        ("transformer", {"quant_method": "nunchaku_lite"}, "nunchaku_lite.*`pip install kernels`"),
        ("transformer", {"load_in_4bit": True}, "bitsandbytes.*`pip install bitsandbytes`"),
        ("text_encoder_2", {"load_in_8bit": True}, "bitsandbytes.*`pip install bitsandbytes`"),
        ("text_encoder_2", {"quant_method": "torchao"}, "torchao.*`pip install torchao`"),
        ("text_encoder_2", {"quant_method": "awq", "bits": 4}, "awq.*`pip install gptqmodel`"),
        ("transformer", {"quant_method": "svdquant"}, r"svdquant, which diffusers \S+ can't load; it loads .*torchao"),
        (
            "text_encoder_2",
            {"quant_method": "nunchaku"},
            r"nunchaku, which transformers \S+ can't load; it loads .*hqq",
        ),
        ("transformer", {"bits": 4}, r"unknown, which diffusers \S+ can't load"),
    ],
)
def test_a_method_that_can_not_run_is_named_with_its_package(
    component: str,
    config: dict[str, Any],
    said: str,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> str:
        if name in ("diffusers", "transformers"):
            return "1"
        raise importlib.metadata.PackageNotFoundError(name)

    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    edit(folder / component / "config.json", quantization_config=config)
    monkeypatch.setattr("diffusion_worker.model.quantised.importlib.metadata.version", absent)
    with pytest.raises(UnsupportedModel, match=rf"model.{component}: is quantised by {said}") as refused:
        load(folder, component)
    assert "\n" not in str(refused.value)


def test_weights_that_would_become_full_ones_are_refused(digits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    file, tensors = weights(folder, "text_encoder_2"), {}
    for key, tensor in load_file(weights(folder, "text_encoder_2")).items():
        tensors[key] = tensor
        if tensor.ndim == 2 and "SelfAttention" in key and key.endswith((".q.weight", ".k.weight", ".v.weight")):
            tensors[key] = tensor.to(torch.float8_e4m3fn)
            tensors[f"{key}_scale_inv"] = torch.ones(1, 1)
    save_file(tensors, file, METADATA)
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    edit(folder / "text_encoder_2" / "config.json", quantization_config=config)
    with pytest.raises(UnsupportedModel, match=r"text_encoder_2: is quantised by fp8, which does not run on this dev"):
        load(folder, "text_encoder_2")


@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_a_small_copy_of_them_is_not_quantised(component: str, digits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit(folder / component / "config.json", quantization_config=config)
    shrink(folder, tmp_path / "small", dtype=torch.float32)
    assert load(tmp_path / "small", component)


def test_gguf_in_the_place_of_weights_is_named(digits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    weights(folder, "transformer").unlink()
    (folder / "transformer" / "flux-Q4_K_S.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match=r"transformer: its weights are GGUF \(flux-Q4_K_S\.gguf\).*safetensors"):
        load(folder, "transformer")


class Opaque(torch.Tensor):
    """A weight of two tensors that computes nothing else than its layer, as torchao's are."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, scale: torch.Tensor) -> Opaque:
        made = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)
        made.numbers, made.scale = numbers, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, torch.Tensor], *given: object) -> Opaque:
        return cls(inner["numbers"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].numbers, args[0].scale)
        raise NotImplementedError(function)


@pytest.mark.parametrize("scale, fine", [(1.0, True), (float("nan"), False)])
def test_weights_that_compute_nothing_by_themselves_are_looked_into(scale: float, fine: bool, tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    weight = Opaque(torch.ones(2, 2, dtype=torch.int8), torch.tensor([scale, 1.0]))
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    assert [part.dtype for part in parts(layer.weight)] == [torch.int8, torch.float32]
    if fine:
        check_weights(layer, tmp_path)
    else:
        with pytest.raises(UnsupportedModel, match="NaN or infinite values in weight of Linear"):
            check_weights(layer, tmp_path)
