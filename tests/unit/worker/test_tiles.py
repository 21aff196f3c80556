"""Which autoencoders work in tiles: those that a resource wants it of, and those that can do nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_worker.model import UnsupportedModel
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.tiling import set_tiling

FOLDER = ModelFolder(Path("/models/m"), "DDPMPipeline", {}, {})


class Autoencoder:
    def __init__(self) -> None:
        self.use_tiling = False

    def enable_tiling(self) -> None:
        self.use_tiling = True


class AutoencoderKLAllegro(Autoencoder):
    pass


def test_each_that_can_does_where_it_is_wanted() -> None:
    components = {"vae": Autoencoder(), "audio_vae": Autoencoder(), "unet": object()}
    set_tiling(components, FOLDER, wanted=True)
    assert [one.use_tiling for one in (components["vae"], components["audio_vae"])] == [True, True]


def test_where_it_is_not_only_those_do_that_can_do_nothing_else() -> None:
    components = {"vae": Autoencoder(), "other": AutoencoderKLAllegro()}
    set_tiling(components, FOLDER, wanted=False)
    assert not components["vae"].use_tiling
    assert components["other"].use_tiling


def test_a_pipeline_in_which_nothing_can_is_refused_by_field() -> None:
    with pytest.raises(UnsupportedModel, match=r"/models/m: model\.vae\.tiling: no component of DDPMPipeline can"):
        set_tiling({"unet": object()}, FOLDER, wanted=True)
