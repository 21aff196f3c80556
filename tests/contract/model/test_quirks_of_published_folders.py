"""What becomes of model folders that are not as `save_pretrained` writes them: served rightly, or refused in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffusion_worker.model import Parameters, UnsupportedModel, identify, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import Stage

from .quirks import QUIRKS, SAME, SERVED, Quirk

SEVEN = Parameters(prompt="a red seven", seed=1, num_inference_steps=1)


def draw(path: Path, *, dtype: str = "float32", variant: str = "", allow_pickle: bool = False) -> bytes:
    folder = resolve_model("Path", str(path), "", stages=frozenset(Stage), variant=variant, allow_pickle=allow_pickle)
    identify(folder, variant=variant)
    model = load_model(
        path=folder, stages=frozenset(Stage), dtype=dtype, device="cpu", variant=variant, allow_pickle=allow_pickle
    )
    (picture,) = model.decode(model.denoise(model.encode(SEVEN), SEVEN, Direct()))
    return picture.data


@pytest.fixture(scope="module")
def unchanged(digits: Path) -> bytes:
    return draw(digits)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_a_folder_is_served_as_it_is_or_refused_in_words(
    quirk: Quirk, digits: Path, unchanged: bytes, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits, tmp_path / "model"))
    folder = quirk.change(folder) or folder

    if quirk.outcome == SAME:
        assert draw(folder, **quirk.options) == unchanged
    elif quirk.outcome == SERVED:
        assert draw(folder, **quirk.options)
    else:
        with pytest.raises(UnsupportedModel, match=quirk.outcome) as refused:
            draw(folder, **quirk.options)
        assert "\n" not in str(refused.value)
        assert str(folder) in str(refused.value)


def test_there_are_as_many_quirks_as_were_met() -> None:
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS) >= 60
